"""Who am I among the ranks, and what is under me?"""
