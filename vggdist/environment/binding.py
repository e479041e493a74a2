"""The cores of each rank of a host, where no launcher has divided them: horovodrun never does.

A rank that stays where it is keeps its caches and, on a machine of several memory nodes, its memory near. What else runs
in it (the threads that read data, Horovod's, the writer of checkpoints) stays on the same cores. A rank that computes on cores
gets some of its own; one that computes on a GPU gets those that are near it, which it may share with others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from vggdist.environment.cores import Cores
from vggdist.launcher.topology import Topology

# Whoever sets one of these has places of his own in mind.
_PLACED_BY_USER = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "HOROVOD_THREAD_AFFINITY")


def bind(cores: Cores, topology: Topology, environment: Mapping[str, str]) -> None:
    """Bind this thread, and all that it starts, to this rank's part of the host's cores, where that is safe.

    It is not where the host is shared with others (a quota, a job of SLURM), who may sit on the same cores; nor in an elastic
    job, whose ranks on a host become more and fewer.
    """
    shared = cores.bound or cores.quota is not None or "SLURM_JOB_ID" in environment
    if shared or "HOROVOD_ELASTIC" in environment or any(name in environment for name in _PLACED_BY_USER):
        return
    mine = part(neighbours(os.sched_getaffinity(0)), topology.local_rank, topology.local_size)
    if mine is not None:
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setaffinity(0, mine)


def bind_near(gpu: str, cores: Cores, environment: Mapping[str, str], devices: Path = Path("/sys/bus/pci/devices")) -> None:
    """Bind this thread, and all that it starts, to the cores from which its GPU is reached without crossing to another socket.

    Nothing is divided, so a host that is shared with others is no obstacle.

    Args:
        gpu: its PCI address, such as ``0000:3b:00.0``.
        devices: where Linux describes what is on the PCI bus.
    """
    if cores.bound or any(name in environment for name in _PLACED_BY_USER):
        return
    with suppress(OSError, ValueError):  # not described, or forbidden by a sandbox
        near = numbers((devices / gpu / "local_cpulist").read_text()) & os.sched_getaffinity(0)
        if near:
            os.sched_setaffinity(0, near)


def numbers(text: str) -> set[int]:
    """The kernel's ``"0-2,5"`` as {0, 1, 2, 5}; ``ValueError`` for anything else."""
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


def part(cores: Sequence[int], local_rank: int, local_size: int) -> Sequence[int] | None:
    """The part of one of ``local_size`` ranks; None where the cores do not divide, or are all its own."""
    each, left = divmod(len(cores), local_size)
    if each == 0 or left > 0 or local_size == 1:
        return None
    return cores[each * local_rank : each * (local_rank + 1)]


def neighbours(cores: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """The cores in an order in which those that share a socket, a memory node and a physical core stand together.

    Their numbers alone would not do: Linux often counts the second hardware thread of each core after all the first ones.
    """
    return sorted(cores, key=lambda core: (*_position(root / f"cpu{core}"), core))


def _position(folder: Path) -> tuple[int, int, int]:
    """Socket, memory node and physical core; 0 for what the kernel does not tell."""
    node = next((int(entry.name[4:]) for entry in folder.glob("node[0-9]*")), 0)
    return _number(folder / "topology" / "physical_package_id"), node, _number(folder / "topology" / "core_id")


def _number(file: Path) -> int:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return 0
