"""Images per second on several numbers of ranks, each in a separate ``bench step`` job. Imports no MXNet.

Weak scaling keeps the batch of a rank constant, strong scaling the global batch; with the smallest number of ranks they are
the same job, which is measured once. The efficiency is the images per second of a rank divided by those of a rank of the
smallest job in the same turn. Each rank uses as many threads as with the largest number of ranks on this host, so that a rank
is equally fast in all jobs.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from vggdist.benchmarking.jobs import run_step
from vggdist.benchmarking.series import Series, in_turn
from vggdist.benchmarking.tables import SHARES
from vggdist.config.bench import BenchRequest
from vggdist.data.sampler import global_batch_size
from vggdist.environment.cores import find_cores, own_cores


@dataclass(frozen=True, order=True)
class Size:
    """Size of a measured job."""

    ranks: int
    global_batch_size: int

    def __str__(self) -> str:
        return f"{self.ranks} rank(s), {self.global_batch_size} samples a step"


def measure(request: BenchRequest, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure all sizes in turn, each in a separate job.

    Args:
        arguments: of the command, passed on to the jobs.

    Returns:
        ``weak`` and ``strong``, each a list of one dict for each number of ranks: ``ranks``, ``global_batch_size``,
        ``images_per_s`` of the training, ``bare`` of the bare step, ``efficiency(%)``, ``shares`` of each rank as in
        ``bench step``, and ``others(%)``, the largest load of other processes during a repeat; then
        ``controller``, ``environment`` and ``versions`` of the largest job.

    Raises:
        RequestError: the ranks cannot share the batch, or a job refused the request.
        RunError: a job failed or did not finish by ``bench.deadline``; none is left running.
    """
    weak, strong = sizes(request)
    threads = os.environ.get("OMP_NUM_THREADS") or str(own_cores(find_cores(os.environ), max(request.bench.ranks)))
    environment = {"OMP_NUM_THREADS": threads}
    results: dict[Size, list[dict[str, Any]]] = defaultdict(list)

    def rate(size: Size) -> float:
        result = run_step(size.ranks, request, arguments, {"train.global_batch_size": size.global_batch_size}, environment)
        results[size].append(result)
        images_per_s = float(result["training"]["median"])
        print(f"repeat {len(results[size])}: {size}: {images_per_s:.1f} images/s", flush=True)
        return images_per_s

    by_name = {str(size): size for size in sorted({*weak, *strong})}
    rates = in_turn({name: partial(rate, size) for name, size in by_name.items()}, request.bench.repeats)
    one = rates[str(weak[0])].over(Series([weak[0].ranks] * request.bench.repeats))

    def row(size: Size) -> dict[str, Any]:
        measured_rates = rates[str(size)]
        ideal = Series([size.ranks * rate for rate in one.values])
        return {
            "ranks": size.ranks,
            "global_batch_size": size.global_batch_size,
            "images_per_s": measured_rates.as_json(),
            "bare": Series([result["bare"]["median"] for result in results[size]]).as_json(),
            "efficiency(%)": Series([100 * ratio for ratio in measured_rates.over(ideal).values]).as_json(),
            "shares": _shares(results[size]),
            "others(%)": max(result["others(%)"] for result in results[size]),
        }

    largest = results[weak[-1]][0]
    return {
        "weak": [row(size) for size in weak],
        "strong": [row(size) for size in strong],
        **{key: largest[key] for key in ("controller", "environment", "versions")},
    }


def sizes(request: BenchRequest) -> tuple[list[Size], list[Size]]:
    """The jobs of weak and of strong scaling by ascending ranks; the first is the same.

    Raises:
        RequestError: a batch is not divisible by the ranks or by the accumulation.
    """
    train, ranks = request.train, sorted(request.bench.ranks)
    smallest = global_batch_size(train.batch_size, train.global_batch_size, ranks[0], train.accumulation)
    batches = {number: smallest // ranks[0] * number for number in ranks}
    for number in ranks:
        global_batch_size(train.batch_size, smallest, number, train.accumulation)
    return [Size(number, batches[number]) for number in ranks], [Size(number, smallest) for number in ranks]


def _shares(results: Sequence[dict[str, Any]]) -> list[dict[str, dict[str, float]]]:
    """Median over the repeats of each share, for each rank."""
    by_rank = zip(*(result["shares"] for result in results))
    return [{key: {"median": median(share[key]["median"] for share in rank)} for key in SHARES} for rank in by_rank]
