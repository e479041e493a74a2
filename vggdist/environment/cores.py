"""The cores that this process may use, and how many of them are its own among the ranks of its host."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Processes that bind the ranks they start; horovodrun on Gloo does not bind.
_BINDERS = {"mpirun", "mpiexec", "orted", "prted", "slurmstepd", "hydra_pmi_proxy"}


@dataclass(frozen=True)
class Cores:
    """What narrows the cores of this process.

    Attributes:
        mask: cores in its affinity mask.
        launcher_mask: cores in that of the launcher that started it; the same where it has none, or that did not bind.
        quota: cores' worth of time that the control group, which all ranks of the host share, may take; None: no limit.
        per_task: what SLURM was asked to give each task; None: not asked.
    """

    mask: int
    launcher_mask: int
    quota: float | None = None
    per_task: int | None = None

    @property
    def bound(self) -> bool:
        """Whether a launcher has given this rank less than all cores of the host."""
        return self.mask < self.launcher_mask


def own_cores(cores: Cores, local_size: int) -> int:
    """The cores for one of ``local_size`` ranks; those that a launcher has divided are not divided again.

    A launcher may bind several ranks to the same cores: Open MPI binds more than two to their sockets.
    """
    share = min(cores.mask, cores.launcher_mask / local_size)
    if cores.quota is not None:
        share = min(share, cores.quota / local_size)
    if cores.per_task is not None:
        share = min(share, cores.per_task)
    return max(1, int(share))


def find_cores(environment: Mapping[str, str]) -> Cores:
    """Look at this process and its place."""
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
    """Cores' worth of CPU time that the control groups of this process allow, versions 1 and 2; None: no limit.

    Args:
        root, membership: where the kernel tells it.
    """
    quotas = []
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                quotas += [_quota_v2(folder) for folder in _upwards(root, path)]
            elif "cpu" in controllers.split(","):
                quotas += [_quota_v1(folder) for folder in _upwards(root / "cpu", path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it: each limits what is below."""
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


def ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` as ``"0-2,5"``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
