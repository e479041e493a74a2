"""The place of this process as its launcher's environment tells it, before anything is imported or started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vggdist.config.errors import RequestError
from vggdist.launcher import slurm

# Each launcher's names for rank, size, local rank and local size. Horovod's own come first: horovodrun sets them on Gloo.
# srun's come last: a mpirun or horovodrun inside a SLURM allocation has them in its environment too.
_NAMES = {
    "horovodrun": ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "the MPI launcher": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}


@dataclass(frozen=True)
class Topology:
    """Where a process stands among the ranks."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def from_environment(environment: Mapping[str, str]) -> Topology:
    """Read the launcher's variables; without any, this process is the only one."""
    names = _NAMES.get(launcher(environment) or "")
    if names is None:
        return Topology(*(slurm.place(environment) or ()))
    return Topology(*(_number(environment, name, default) for name, default in zip(names, (0, 1, 0, 1))))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not re.fullmatch("-1|[0-9]{1,9}", text):  # -1: a rank of an elastic job that has no number yet
        raise RequestError(f"the environment variable {name} is {text!r}; expected a number, as the launcher sets it")
    return int(text)


def launcher(environment: Mapping[str, str]) -> str | None:
    """Who started this process as one of several ranks, as far as the environment tells; None where nobody did."""
    task = slurm.place(environment)
    for name, (rank, size, *_) in _NAMES.items():
        if rank in environment and size in environment:
            # A task of srun that found its rendezvous has Horovod's variables, too.
            of_task = task is not None and (environment[rank], environment[size]) == (str(task[0]), str(task[1]))
            return "srun" if name == "horovodrun" and of_task else name
    return "srun" if task is not None else None
