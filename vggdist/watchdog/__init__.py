"""Detects a rank that has died or hangs, and ends the job on all ranks. Does not use Horovod."""
