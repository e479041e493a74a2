"""Images per second of the training's input alone: reading, decoding, augmentation, batches. No network is built."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import Any

from vggdist.benchmarking.series import Series, in_turn
from vggdist.collectives.world import World
from vggdist.config.bench import BenchConfig, BenchRequest
from vggdist.data.augment import TrainingView
from vggdist.data.loader import batch_tasks, prefetch
from vggdist.data.sampler import SamplePlan
from vggdist.training.setup import prepare_input


def measure(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Measure each number of threads in turn, on all ranks at once. Every rank must call this.

    Returns:
        ``threads``: for each number a dict of ``threads``, ``images_per_s`` of all ranks together, and
        ``core_ms_per_image``, the core time of an image in the mean over the ranks, which other load on the machine affects
        less. A padded batch counts as full.
    """
    plan, view = prepare_input(request, world)
    costs: dict[int, list[float]] = defaultdict(list)

    def rate(threads: int) -> float:
        world.barrier()
        seconds, core_seconds = _seconds(plan, view, world.rank, threads, request.data.prefetch, request.bench, beat)
        images = request.bench.steps * plan.batch_size
        ranks = world.gather([images / seconds, 1000 * core_seconds / images])
        costs[threads].append(sum(cost for _, cost in ranks) / world.size)
        return float(sum(rate for rate, _ in ranks))

    counts = request.bench.threads or (request.data.threads,)
    rates = in_turn({str(threads): lambda threads=threads: rate(threads) for threads in counts}, request.bench.repeats)  # type: ignore[misc]
    return {
        "batch_size": plan.batch_size,
        "threads": [
            {
                "threads": threads,
                "images_per_s": rates[str(threads)].as_json(),
                "core_ms_per_image": Series(costs[threads]).as_json(),
            }
            for threads in counts
        ],
    }


def _seconds(
    plan: SamplePlan,
    view: TrainingView,
    rank: int,
    threads: int,
    ahead: int,
    bench: BenchConfig,
    beat: Callable[[str], None],
) -> tuple[float, float]:
    """Seconds, and core seconds of this process, from one batch to the one ``bench.steps`` later."""
    last = bench.warmup + bench.steps
    tasks = batch_tasks(plan, view, rank, range(last + ahead))  # the pool is as full at the end as at the start
    with closing(prefetch(tasks, threads, ahead)) as batches:
        for count, _ in enumerate(batches, 1):
            beat("input")
            if count == bench.warmup:
                started, used = time.perf_counter(), time.process_time()
            if count == last:
                break
        return time.perf_counter() - started, time.process_time() - used
