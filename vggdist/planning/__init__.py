"""Estimates of the memory, input rate and scaling of a run."""
