"""Checks of hosts, GPUs and ranks before a run."""
