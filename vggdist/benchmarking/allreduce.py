"""Time of an allreduce by Horovod and by MPI, for the sizes of the network's gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.benchmarking.series import Series, in_turn, link_of
from vggdist.collectives.world import World, choose_device
from vggdist.config.bench import BenchConfig, BenchRequest
from vggdist.config.errors import RequestError, agreed
from vggdist.data.data_shape import data_shape
from vggdist.models.layers import describe

_SECONDS = 0.3  # of one measurement, in which a small reduction is repeated


def measure(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Measure every size. Every rank must call this; the time of the slowest rank is used.

    Returns:
        ``sizes``: for each size a dict of ``bytes``, its ``layers``, and ``horovod`` and ``mpi`` in seconds of one reduction
        (``mpi`` only if Horovod runs on MPI; host memory); ``latency_us`` and ``bandwidth_gbit_s`` of the link that fits
        Horovod's times best.

    Raises:
        RequestError: on every rank, with a single rank.
    """
    if world.size == 1:
        raise agreed(
            RequestError("one rank has nothing to reduce; start it with horovodrun -np 2 python -m vggdist.bench allreduce")
        )
    device = choose_device(request.run.device, world.local_rank)
    rows: list[dict[str, Any]] = []
    for count, names in tensor_sizes(request).items():
        beat(f"{4 * count} bytes")
        reductions = {"horovod": _horovod(world, mx.nd.zeros((count,), ctx=device))}
        if world.controller == "MPI":
            reductions["mpi"] = _mpi(np.zeros(count, np.float32))
        times = _times(reductions, world, request.bench)
        rows.append({"bytes": 4 * count, "layers": names, **{name: series.as_json() for name, series in times.items()}})
    sizes, medians = [row["bytes"] for row in rows], [row["horovod"]["median"] for row in rows]
    latency, bandwidth = link_of(sizes, medians, world.size)
    return {"sizes": rows, "latency_us": 1e6 * latency, "bandwidth_gbit_s": 8e-9 * bandwidth}


def tensor_sizes(request: BenchRequest) -> dict[int, list[str]]:
    """Ascending sizes of the layers' gradients in numbers, with the layers of each; last the sum of all."""
    layers = [layer for layer in describe(request.model, **asdict(data_shape(request.data))) if layer.trained]
    names: dict[int, list[str]] = {}
    for layer in sorted(layers, key=lambda layer: layer.trained):
        names.setdefault(layer.trained, []).append(layer.name)
    return names | {sum(layer.trained for layer in layers): ["all"]}


def _horovod(world: World, array: mx.nd.NDArray) -> Callable[[], None]:
    def reduce() -> None:
        world.reduce([array], "bench")
        array.wait_to_read()

    return reduce


def _mpi(array: NDArray[np.float32]) -> Callable[[], None]:
    from mpi4py import MPI  # Horovod has initialised MPI

    return lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, array)


def _times(reductions: dict[str, Callable[[], None]], world: World, bench: BenchConfig) -> dict[str, Series]:
    """Seconds of one reduction of each kind, on the slowest rank."""

    def seconds(reduce: Callable[[], None], count: int) -> float:
        world.barrier()
        started = time.perf_counter()
        for _ in range(count):
            reduce()
        return max(world.gather((time.perf_counter() - started) / count))

    counts = {}
    for name, reduce in reductions.items():
        seconds(reduce, 2)
        counts[name] = int(min(max(_SECONDS / seconds(reduce, bench.warmup), 1), bench.steps))
    return in_turn({name: lambda name=name: seconds(reductions[name], counts[name]) for name in reductions}, bench.repeats)  # type: ignore[misc]
