"""Bytes against time of an allreduce, on the sizes of the network's own gradients: Horovod's, and MPI's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import mxnet as mx
import numpy as np

from vggdist.benchmarking.series import Series, in_turn, link_of
from vggdist.collectives.world import World, choose_device
from vggdist.config.bench import BenchConfig, BenchRequest
from vggdist.config.errors import RequestError, agreed
from vggdist.data.data_shape import data_shape
from vggdist.models.layers import describe

_SECONDS = 0.3  # of one measurement; a small reduction is repeated within it


def measure(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Measure every size. Every rank must call this; the slowest rank counts.

    Returns:
        ``sizes``: for each a dict of ``bytes``, ``layers`` that have it, and ``horovod`` and ``mpi`` in seconds of one
        reduction (``mpi`` only where Horovod runs on MPI; host memory); ``latency_us`` and ``bandwidth_gbit_s`` of the link
        that explains Horovod's times best.

    Raises:
        RequestError: on every rank, where there is one alone.
    """
    if world.size == 1:
        raise agreed(
            RequestError("one rank has nothing to reduce; start it as horovodrun -np 2 python -m vggdist.bench allreduce")
        )
    device = choose_device(request.run.device, world.local_rank)
    rows: list[dict[str, Any]] = []
    for count, names in tensor_sizes(request).items():
        beat(f"{4 * count} bytes")
        ways = {"horovod": _horovod(world, mx.nd.zeros((count,), ctx=device))}
        if world.controller == "MPI":
            ways["mpi"] = _mpi(np.zeros(count, np.float32))
        times = _times(ways, world, request.bench)
        rows.append({"bytes": 4 * count, "layers": names, **{name: series.as_json() for name, series in times.items()}})
    sizes, medians = [row["bytes"] for row in rows], [row["horovod"]["median"] for row in rows]
    latency, bandwidth = link_of(sizes, medians, world.size)
    return {"sizes": rows, "latency_us": 1e6 * latency, "bandwidth_gbit_s": 8e-9 * bandwidth}


def tensor_sizes(request: BenchRequest) -> dict[int, list[str]]:
    """Numbers of a layer's gradient, ascending, and the layers that have so many; at last all of them together."""
    layers = [layer for layer in describe(request.model, **asdict(data_shape(request.data))) if layer.trained]
    found: dict[int, list[str]] = {}
    for layer in sorted(layers, key=lambda layer: layer.trained):
        found.setdefault(layer.trained, []).append(layer.name)
    return found | {sum(layer.trained for layer in layers): ["all"]}


def _horovod(world: World, array: mx.nd.NDArray) -> Callable[[], None]:
    def reduce() -> None:
        world.reduce([array], "bench")
        array.wait_to_read()

    return reduce


def _mpi(array: np.ndarray) -> Callable[[], None]:
    from mpi4py import MPI  # Horovod has started MPI by now

    return lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, array)


def _times(ways: dict[str, Callable[[], None]], world: World, bench: BenchConfig) -> dict[str, Series]:
    """Seconds of one reduction, each way, on the slowest rank."""

    def seconds(reduce: Callable[[], None], count: int) -> float:
        world.barrier()
        started = time.perf_counter()
        for _ in range(count):
            reduce()
        return max(world.gather((time.perf_counter() - started) / count))

    counts = {}
    for name, reduce in ways.items():
        seconds(reduce, 2)
        counts[name] = int(min(max(_SECONDS / seconds(reduce, bench.warmup), 1), bench.steps))
    return in_turn({name: lambda name=name: seconds(ways[name], counts[name]) for name in ways}, bench.repeats)  # type: ignore[misc]
