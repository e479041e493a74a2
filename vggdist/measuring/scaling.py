"""Images per second on several numbers of ranks: ``bench step`` under the launcher, for each number anew. Imports no MXNet.

Weak scaling keeps the batch of a rank, strong scaling the global batch; with the smallest number of ranks they are the same
job, which is measured once. The efficiency is the images per second of a rank over those of a rank of that job of the same
turn. Each rank computes in as many threads as with the largest number of ranks on this host, so that one rank is no larger
worker than one of several.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vggdist.config.bench import BenchRequest
from vggdist.config.errors import RequestError, RunError
from vggdist.config.load import run_directory
from vggdist.data.sampler import global_batch_size
from vggdist.measuring.series import Series, in_turn
from vggdist.measuring.tables import SHARES
from vggdist.reporting.result import REFUSED, read_result
from vggdist.world.cores import find_cores, own_cores
from vggdist.world.job import GRACE_S, Job, launcher_words

_TOLD_LINES = 15  # of the output of a job that failed without a result


@dataclass(frozen=True, order=True)
class Size:
    """What tells the measured jobs apart."""

    ranks: int
    global_batch_size: int

    def __str__(self) -> str:
        return f"{self.ranks} rank(s), {self.global_batch_size} samples a step"


def measure(request: BenchRequest, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure all sizes in turn, each in a job of its own.

    Args:
        arguments: of the command, which the jobs get, too.

    Returns:
        ``weak`` and ``strong``, each a list of one dict for each number of ranks: ``ranks``, ``global_batch_size``,
        ``images_per_s`` of the training, ``bare`` of the bare step, ``efficiency(%)``, ``shares`` of each rank as ``bench
        step`` has them, and ``others(%)``, the most that others used of the cores during a repeat; then
        ``controller``, ``environment`` and ``versions`` of the largest job.

    Raises:
        RequestError: the ranks cannot share the batch, or a job was refused.
        RunError: a job failed or was not over by ``bench.deadline``; none is left running.
    """
    launcher = launcher_words(request.bench.launcher) if request.bench.launcher else None
    weak, strong = sizes(request)
    threads = own_cores(find_cores(os.environ), max(request.bench.ranks))
    directory = run_directory(request) / "scaling"
    results: dict[Size, list[dict[str, Any]]] = defaultdict(list)

    def rate(size: Size) -> float:
        result = _run(size, launcher, arguments, directory, threads, request.bench.deadline)
        results[size].append(result)
        images_per_s = float(result["training"]["median"])
        print(f"repeat {len(results[size])}: {size}: {images_per_s:.1f} images/s", flush=True)
        return images_per_s

    measured = {str(size): size for size in sorted({*weak, *strong})}
    try:
        rates = in_turn(
            {name: lambda size=size: rate(size) for name, size in measured.items()},  # type: ignore[misc]
            request.bench.repeats,
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    one = rates[str(weak[0])].over(Series([weak[0].ranks] * request.bench.repeats))

    def told(size: Size) -> dict[str, Any]:
        taken = rates[str(size)]
        ideal = Series([size.ranks * rate for rate in one.values])
        return {
            "ranks": size.ranks,
            "global_batch_size": size.global_batch_size,
            "images_per_s": taken.as_json(),
            "bare": Series([result["bare"]["median"] for result in results[size]]).as_json(),
            "efficiency(%)": Series([100 * ratio for ratio in taken.over(ideal).values]).as_json(),
            "shares": _shares(results[size]),
            "others(%)": max(result["others(%)"] for result in results[size]),
        }

    largest = results[weak[-1]][0]
    return {
        "weak": [told(size) for size in weak],
        "strong": [told(size) for size in strong],
        **{key: largest[key] for key in ("controller", "environment", "versions")},
    }


def sizes(request: BenchRequest) -> tuple[list[Size], list[Size]]:
    """The jobs of weak and of strong scaling, in the order of their ranks; the first is the same.

    Raises:
        RequestError: ranks, or the parts of an accumulated batch, do not divide a batch.
    """
    train, ranks = request.train, sorted(request.bench.ranks)
    smallest = global_batch_size(train.batch_size, train.global_batch_size, ranks[0], train.accumulation)
    batches = {number: smallest // ranks[0] * number for number in ranks}
    for number in ranks:
        global_batch_size(train.batch_size, smallest, number, train.accumulation)
    return [Size(number, batches[number]) for number in ranks], [Size(number, smallest) for number in ranks]


def _run(
    size: Size, launcher: list[str] | None, arguments: Sequence[str], directory: Path, threads: int, deadline: float
) -> dict[str, Any]:
    """The result of ``bench step`` on a number of ranks."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    started_by = launcher or ([] if size.ranks == 1 else launcher_words("horovodrun"))
    changed = {
        "--train.global_batch_size": size.global_batch_size,
        "--bench.repeats": 1,
        "--run.directory": directory,
        "--run.name": "job",
    }
    command = [
        *(started_by and [*started_by, "-np", str(size.ranks)]),
        *(sys.executable, "-m", "vggdist.bench", "step", *arguments),
        *(str(word) for pair in changed.items() for word in pair),
    ]
    log = directory / "output.txt"
    with log.open("w") as output:
        code = _code_of(Job(command, output, {"OMP_NUM_THREADS": str(threads), **os.environ}), deadline)
    result = read_result(directory / "job", "bench-step.json") or {}
    code = result.get("exit_code", code)
    if code == 0:
        return result
    ended = f"was not over after {deadline:g} s (bench.deadline)" if code is None else f"ended with exit code {code}"
    why = result.get("error") or "\n".join(log.read_text(errors="replace").splitlines()[-_TOLD_LINES:])
    kind = RequestError if code == REFUSED else RunError
    raise kind(f"the job of {size} {ended}: {why}\nIt was: {shlex.join(command)}")


def _code_of(job: Job, deadline: float) -> int | None:
    """The launcher's exit code, or None when it was not over in time; nothing of the job is left then."""
    try:
        return job.launcher.wait(deadline)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if job.launcher.poll() is None:
            job.launcher.terminate()  # it ends its ranks on other hosts, too
        job.end(GRACE_S)


def _shares(results: Sequence[dict[str, Any]]) -> list[dict[str, dict[str, float]]]:
    """For each rank the median of each share over the repeats."""
    by_rank = zip(*(result["shares"] for result in results))
    return [{key: {"median": median(share[key]["median"] for share in rank)} for key in SHARES} for rank in by_rank]
