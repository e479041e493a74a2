"""The cores that this process may use, and how many of them are for this rank among the ranks of its host."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Processes that bind the ranks they start; horovodrun on Gloo does not bind.
_BINDERS = {"mpirun", "mpiexec", "orted", "prted", "slurmstepd", "hydra_pmi_proxy"}


@dataclass(frozen=True)
class Cores:
    """The limits on the cores of this process.

    Attributes:
        mask: number of cores in its affinity mask.
        launcher_mask: number of cores in the launcher's mask; equal to ``mask`` without a launcher that binds.
        quota: CPU time per time, in cores, that the control group of all ranks of the host may use; None: no limit.
        per_task: cores of each task that SLURM was asked for; None: not specified.
    """

    mask: int
    launcher_mask: int
    quota: float | None = None
    per_task: int | None = None

    @property
    def bound(self) -> bool:
        """Whether a launcher has bound this rank to some of the host's cores."""
        return self.mask < self.launcher_mask


def own_cores(cores: Cores, local_size: int) -> int:
    """The number of cores for one of ``local_size`` ranks. Cores that a launcher has divided are not divided again.

    A launcher may bind several ranks to the same cores: Open MPI binds more than two ranks to sockets.
    """
    share = min(cores.mask, cores.launcher_mask / local_size)
    if cores.quota is not None:
        share = min(share, cores.quota / local_size)
    if cores.per_task is not None:
        share = min(share, cores.per_task)
    return max(1, int(share))


def find_cores(environment: Mapping[str, str]) -> Cores:
    """Read the limits of this process from the kernel and the environment."""
    mask = len(os.sched_getaffinity(0))
    per_task = environment.get("SLURM_CPUS_PER_TASK", "")
    return Cores(mask, _launcher_mask() or mask, cgroup_quota(), int(per_task) if per_task.isdigit() else None)


def _launcher_mask() -> int | None:
    with suppress(psutil.Error, OSError):
        for ancestor in psutil.Process().parents():
            if ancestor.name() in _BINDERS:
                return len(os.sched_getaffinity(ancestor.pid))
    return None


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPU quota of this process's control groups, in cores, for versions 1 and 2; None: no limit.

    Args:
        root: mount point of the control groups.
        membership: file that lists the control groups of this process.
    """
    quotas = []
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                quotas += [_quota_v2(folder) for folder in _with_parents(root, path)]
            elif "cpu" in controllers.split(","):
                quotas += [_quota_v1(folder) for folder in _with_parents(root / "cpu", path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _with_parents(root: Path, path: str) -> Iterator[Path]:
    """The folders of a group and of its parents, whose limits apply to it as well."""
    folder = root / path.lstrip("/")
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _quota_v2(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None


def parse_cpu_list(text: str) -> set[int]:
    """The kernel's ``"0-2,5"`` as {0, 1, 2, 5}; ``ValueError`` for any other format."""
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


def format_cpu_list(cores: Iterable[int]) -> str:
    """``[0, 1, 2, 5]`` as ``"0-2,5"``."""
    parts: list[list[int]] = []
    for number in sorted(cores):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def has_instructions(name: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions, by their name in Linux's ``/proc/cpuinfo``; false where there is no such file."""
    return cpuinfo.exists() and name in cpuinfo.read_text()
