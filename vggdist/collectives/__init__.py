"""Horovod's start and the collective operations of the ranks."""
