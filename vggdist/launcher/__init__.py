"""Rank and size of this process, read from its launcher's environment variables."""
