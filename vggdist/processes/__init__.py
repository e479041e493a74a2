"""Signals and output streams of this process, and the processes of a job that it starts."""
