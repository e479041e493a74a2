"""Which rank is this process, according to its launcher?"""
