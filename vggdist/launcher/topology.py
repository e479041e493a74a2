"""Rank, size, local rank and local size of this process, read from the environment before MXNet or Horovod is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vggdist.config.errors import RequestError
from vggdist.launcher import slurm

# Each launcher's names of rank, size, local rank and local size. Horovod's come first: horovodrun sets them on Gloo.
# srun's come last: mpirun and horovodrun inside a SLURM allocation have them in their environment, too.
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
    """Global and local rank of a process, and the number of ranks of each kind."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def from_environment(environment: Mapping[str, str]) -> Topology:
    """Read the launcher's variables. Without any, this process is the only rank."""
    names = _NAMES.get(launcher(environment) or "")
    if names is None:
        return Topology(*(slurm.task_position(environment) or ()))
    return Topology(*(_number(environment, name, default) for name, default in zip(names, (0, 1, 0, 1))))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not re.fullmatch("-1|[0-9]{1,9}", text):  # -1: a process of an elastic job that has no rank yet
        raise RequestError(f"the environment variable {name} is {text!r}; expected a number, as the launcher sets it")
    return int(text)


def launcher(environment: Mapping[str, str]) -> str | None:
    """The launcher that started this process as one of several ranks; None without one."""
    task = slurm.task_position(environment)
    for name, (rank, size, *_) in _NAMES.items():
        if rank in environment and size in environment:
            # A task of srun has Horovod's variables, too, once slurm.rendezvous() has set them.
            of_task = task is not None and (environment[rank], environment[size]) == (str(task[0]), str(task[1]))
            return "srun" if name == "horovodrun" and of_task else name
    return "srun" if task is not None else None
