"""Checkpoints: writing, reading, verifying and pruning them."""
