"""Whether an error means that another rank is gone."""

from __future__ import annotations

# What Horovod says when the failure is another rank's (Gloo, MPI).
_LOST_CONTACT = (
    "Horovod has been shut down",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out waiting",
    "MPI_",
)


def lost_contact(error: Exception) -> bool:
    """Whether an error is one of communication: the failure is another rank's, or the network's."""
    return any(text in str(error) for text in _LOST_CONTACT)
