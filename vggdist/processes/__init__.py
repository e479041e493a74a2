"""Signals and output streams of this process, and subprocess jobs."""
