"""What would a run need, and how would it scale?"""
