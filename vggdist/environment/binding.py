"""CPU binding of the ranks of a host, for launchers that do not bind; horovodrun never does.

A bound rank keeps its caches and, on a machine with several NUMA nodes, its memory local. All its threads (data loading,
Horovod, the checkpoint writer) stay on the same cores. A rank that computes on the CPU gets cores of its own. A rank that
computes on a GPU gets the cores near that GPU, which it may share with other ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from vggdist.environment.cores import Cores, parse_cpu_list
from vggdist.launcher.topology import Topology

# A user who sets one of these binds threads himself.
_BOUND_BY_USER = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "HOROVOD_THREAD_AFFINITY")


def bind(cores: Cores, topology: Topology, environment: Mapping[str, str]) -> None:
    """Bind this thread, and the threads that it starts, to this rank's share of the host's cores.

    Does nothing on a host that may be shared with other jobs (a quota, a job of SLURM), because they may use the same cores,
    and in an elastic job, because the number of ranks on a host changes.
    """
    shared = cores.bound or cores.quota is not None or "SLURM_JOB_ID" in environment
    if shared or "HOROVOD_ELASTIC" in environment or any(name in environment for name in _BOUND_BY_USER):
        return
    share = core_share(sorted_by_locality(os.sched_getaffinity(0)), topology.local_rank, topology.local_size)
    if share is not None:
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setaffinity(0, share)


def bind_near(gpu: str, cores: Cores, environment: Mapping[str, str], devices: Path = Path("/sys/bus/pci/devices")) -> None:
    """Bind this thread, and the threads that it starts, to the cores on the socket of its GPU.

    The cores are not divided among the ranks, so this is safe on a host that is shared with other jobs.

    Args:
        gpu: its PCI address, such as ``0000:3b:00.0``.
        devices: the folder in which Linux describes the devices of the PCI bus.
    """
    if cores.bound or any(name in environment for name in _BOUND_BY_USER):
        return
    with suppress(OSError, ValueError):  # not described, or forbidden by a sandbox
        near = parse_cpu_list((devices / gpu / "local_cpulist").read_text()) & os.sched_getaffinity(0)
        if near:
            os.sched_setaffinity(0, near)


def core_share(cores: Sequence[int], local_rank: int, local_size: int) -> Sequence[int] | None:
    """The cores of one of ``local_size`` ranks; None for a single rank, or if the cores do not divide evenly."""
    each, remainder = divmod(len(cores), local_size)
    if each == 0 or remainder > 0 or local_size == 1:
        return None
    return cores[each * local_rank : each * (local_rank + 1)]


def sorted_by_locality(cores: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """The cores, sorted by socket, NUMA node and physical core.

    The numbers are not in this order: Linux often numbers the second hardware threads after all first ones.
    """
    return sorted(cores, key=lambda core: (*_location(root / f"cpu{core}"), core))


def _location(folder: Path) -> tuple[int, int, int]:
    """Socket, NUMA node and physical core; 0 for each that the kernel does not report."""
    node = next((int(entry.name[4:]) for entry in folder.glob("node[0-9]*")), 0)
    return _number(folder / "topology" / "physical_package_id"), node, _number(folder / "topology" / "core_id")


def _number(file: Path) -> int:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return 0
