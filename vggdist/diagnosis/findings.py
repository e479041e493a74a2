"""Findings of the doctor from the ranks' reports, each with a remedy. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vggdist.environment.cores import format_cpu_list

_MIB, _GIB = 2**20, 2**30
SMALLEST_DISK, ROOMY_DISK, ROOMY_SHM = 200 * _MIB, 5 * _GIB, 64 * _MIB
LARGEST_SKEW_S = 1.0


@dataclass(frozen=True)
class RankReport:
    """Device, cores, network, clock and versions of one rank."""

    rank: int
    host: str
    local_rank: int
    device: str
    gpu: str | None
    """Name and compute capability of its GPU; None without one."""
    refusal: str | None
    """Why MXNet cannot use the requested device, or the default one."""
    cores: list[int]
    threads: int
    """OMP_NUM_THREADS."""
    interface: str | None
    clock: float
    """Seconds since the epoch, read at the same moment on all ranks, within the duration of one small reduction."""
    shm_free: int
    """Free bytes in /dev/shm."""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    level: Literal["ok", "warning", "error"]
    what: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.level:8}{self.what}" + (f"\n        -> {self.cure}" if self.cure else "")


def of_ranks(reports: Sequence[RankReport], wanted_device: str) -> list[Finding]:
    """Findings from the reports of all ranks.

    Args:
        reports: of all ranks, in their order.
        wanted_device: ``run.device``.
    """
    return [
        _versions(reports),
        *_devices(reports, wanted_device),
        *_cores(reports),
        _clocks(reports),
        *_shared_memory(reports),
    ]


def place_map(reports: Sequence[RankReport]) -> str:
    """Rank, host, device, cores and interface, one line for each rank."""
    lines = [("rank", "host", "device", "cores", "threads", "interface")]
    for one in reports:
        device = f"{one.device} {one.gpu}" if one.gpu else one.device
        lines.append((str(one.rank), one.host, device, format_cpu_list(one.cores), str(one.threads), one.interface or "-"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip() for line in lines)


def of_disk(directory: str, free: int | None) -> Finding:
    """Disk space for rank 0's checkpoints.

    Args:
        free: bytes; None: the folder cannot be written.
    """
    if free is None:
        return Finding("error", f"{directory} cannot be written", "choose another --run.directory, or fix its permissions")
    what = f"{directory}: {free / _GIB:.1f} GiB free"
    if free < ROOMY_DISK:
        level: Literal["warning", "error"] = "error" if free < SMALLEST_DISK else "warning"
        cure = "a checkpoint of VGG-16 takes 1.1 GB, and three are kept; free disk space, or set --run.directory"
        return Finding(level, what, cure)
    return Finding("ok", what)


def of_allreduce(right: bool, gigabytes_per_s: float | None) -> Finding:
    """Result and speed of a sum over the ranks; the speed is None with one rank."""
    if not right:
        return Finding(
            "error", "a sum over the ranks was wrong", "do not train here: build Horovod again, and test the memory"
        )
    if gigabytes_per_s is None:
        return Finding("ok", "one rank: nothing to reduce")
    return Finding("ok", f"allreduce: right, {gigabytes_per_s:.2f} GB/s of 16 MiB float32")


def _versions(reports: Sequence[RankReport]) -> Finding:
    for one in reports[1:]:
        for name, version in one.versions.items():
            if version != reports[0].versions.get(name):
                what = f"rank {one.rank} on {one.host} has {name} {version}, rank 0 {reports[0].versions.get(name)}"
                return Finding("error", what, "install the same environment on every host")
    return Finding("ok", "versions: " + ", ".join(f"{name} {version}" for name, version in reports[0].versions.items()))


def _devices(reports: Sequence[RankReport], wanted: str) -> list[Finding]:
    findings = []
    for refusal, ranks in _grouped(reports, lambda one: one.refusal):
        level: Literal["warning", "error"] = "error" if wanted == "gpu" else "warning"
        cure = "" if level == "error" else "the run would use the CPU"
        findings.append(Finding(level, f"rank {ranks}: {refusal}", cure))
    return findings or [Finding("ok", f"devices: {', '.join(sorted({one.device for one in reports}))}")]


def _cores(reports: Sequence[RankReport]) -> list[Finding]:
    findings = []
    for host in dict.fromkeys(one.host for one in reports):
        local = [one for one in reports if one.host == host]
        cores, threads = {core for one in local for core in one.cores}, sum(one.threads for one in local)
        if threads > len(cores):
            what = f"{host}: {threads} threads of {len(local)} rank(s) on {len(cores)} core(s)"
            cure = (
                "start fewer ranks, give the job more cores (--cpus-per-gpu, mpirun --bind-to none), or lower OMP_NUM_THREADS"
            )
            findings.append(Finding("warning", what, cure))
    return findings or [Finding("ok", "cores: no more threads than cores on any host")]


def _clocks(reports: Sequence[RankReport]) -> Finding:
    first, last = min(reports, key=lambda one: one.clock), max(reports, key=lambda one: one.clock)
    skew = last.clock - first.clock
    if skew > LARGEST_SKEW_S:
        what = f"the clock of {first.host} is {skew:.1f} s behind that of {last.host}"
        return Finding("warning", what, "run ntp or chrony on every host: otherwise times in logs and run.max_time differ")
    return Finding("ok", f"clocks: within {max(skew, 0.001):.3f} s")


def _shared_memory(reports: Sequence[RankReport]) -> list[Finding]:
    short = [(host, ranks) for host, ranks in _grouped(reports, lambda one: one.host if one.shm_free < ROOMY_SHM else None)]
    cure = "NCCL and Open MPI use it: in a container --shm-size=1g, on Kubernetes a memory volume at /dev/shm"
    return [Finding("warning", f"{host}: less than 64 MiB free in /dev/shm", cure) for host, _ in short] or [
        Finding("ok", f"/dev/shm: at least {min(one.shm_free for one in reports) / _GIB:.1f} GiB free")
    ]


def _grouped(reports: Sequence[RankReport], key: Callable[[RankReport], str | None]) -> list[tuple[str, str]]:
    """The values other than None, each with its ranks."""
    values = dict.fromkeys(value for one in reports if (value := key(one)) is not None)
    return [(value, ", ".join(str(one.rank) for one in reports if key(one) == value)) for value in values]
