"""Detects the errors of Horovod that are caused by the failure of another rank."""

from __future__ import annotations

# Fragments of Horovod's messages on Gloo and MPI.
_FRAGMENTS = (
    "Horovod has been shut down",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out waiting",
    "MPI_",
)


def lost_contact(error: Exception) -> bool:
    """Whether an error is a communication error, caused by another rank or by the network."""
    return any(text in str(error) for text in _FRAGMENTS)
