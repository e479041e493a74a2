"""The place of this process as its launcher's environment tells it, before anything is imported or started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Each launcher's names for rank, size, local rank and local size. Horovod's own come first: horovodrun sets them on Gloo.
_NAMES = (
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


@dataclass(frozen=True)
class Topology:
    """Where a process stands among the ranks."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def from_environment(environment: Mapping[str, str]) -> Topology:
    """Read the launcher's variables; without any, this process is the only one."""
    for names in _NAMES:
        if names[0] in environment and names[1] in environment:
            rank, size, local_rank, local_size = (
                int(environment.get(name, default)) for name, default in zip(names, ("0", "1", "0", "1"))
            )
            return Topology(rank, size, local_rank, local_size)
    return Topology()
