"""The checks of the self test: the claim of each, its measurement, and its limit."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mxnet as mx
import numpy as np
from mxnet import autograd
from numpy.typing import NDArray

from vggdist.benchmarking.bare_step import bare_step
from vggdist.checkpoints.snapshot import Snapshot
from vggdist.checkpoints.state import restore
from vggdist.collectives.world import World
from vggdist.data.data_shape import DataShape
from vggdist.environment import gpus
from vggdist.models.layers import readable_bytes
from vggdist.models.precision import has_half
from vggdist.models.vgg import SeededDropout
from vggdist.planning.memory import estimate
from vggdist.selftest.bench import Network, Scale, arrays_that_differ, distance, new_training, single_rank, train, values
from vggdist.selftest.outcome import Measured

# Maximum difference of two devices, relative to the update. The error of a product is about 1e-6 for float32 sums in another
# order, and 5e-4 for TF32 (ten bits of mantissa). The limits leave room for the sum over the layers, and for a ReLU or a
# maximum that switches. Not yet compared with any card.
FLOAT32_LIMIT, TF32_LIMIT = 1e-3, 3e-2
# The same for float16 and bfloat16 compared with float32.
_HALF_LIMIT = 0.1
_LOSS_SCALE = 1024.0
_BUCKET_MB = 0.01
_TF32_FROM = (8, 0)


@dataclass(frozen=True)
class Bench:
    """Ranks, device and sizes of the checks.

    Attributes:
        world: all ranks.
        device: of this rank.
    """

    world: World
    device: mx.Context
    scale: Scale

    @property
    def kind(self) -> str:
        """``cpu`` or ``gpu``, as in ``run.device``."""
        return "gpu" if self.device.device_type == "gpu" else "cpu"

    @property
    def uses_tf32(self) -> bool:
        """Whether convolutions and matrix products in float32 use TF32 on this rank."""
        gpu = gpus.describe(self.device.device_id) if self.kind == "gpu" else None
        return gpu is not None and gpu.capability >= _TF32_FROM and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"

    @property
    def half(self) -> str | None:
        """The 16-bit type that all ranks support: ``float16`` on GPUs, ``bfloat16`` on CPUs, or None."""
        name = "float16" if self.kind == "gpu" else "bfloat16"
        return name if all(self.world.gather(has_half(self.device))) else None

    @property
    def precision_limit(self) -> float:
        """The limit for sums in another order, or on another device; the same on all ranks."""
        return TF32_LIMIT if any(self.world.gather(self.uses_tf32)) else FLOAT32_LIMIT


@dataclass(frozen=True)
class Claim:
    """A check.

    Attributes:
        measure: called on every rank at the same point. It may raise ``MXNetError`` if it does not communicate.
    """

    text: str
    unit: str
    limit: float | None
    measure: Callable[[Bench], Measured]


def claims(bench: Bench) -> Iterator[Claim]:
    """All checks for these ranks and devices, the most important first. Every rank must call this."""
    scale, precision = bench.scale, bench.precision_limit
    small, full = scale.small.changed(dropout=0.0), scale.full.changed(dropout=0.0)
    yield Claim("update as on the CPU, small", "", precision, lambda bench: same_as_on_cpu(bench, small, 3))
    yield Claim("update as on the CPU, full", "", precision, lambda bench: same_as_on_cpu(bench, full, 1))
    yield Claim("dropout follows the seed, masks that differ", "", 0, dropout_follows_the_seed)
    if bench.world.size > 1:
        yield Claim("sum over the ranks, numbers that are wrong", "", 0, reduction_is_right)
    yield Claim("training twice, arrays that differ", "", 0, training_repeats)
    yield Claim("continued from a snapshot, arrays that differ", "", 0, continues_from_a_snapshot)
    if bench.world.size > 1:
        yield Claim("training twice in buckets, arrays that differ", "", 0, lambda bench: training_repeats(bench, _BUCKET_MB))
        yield Claim(f"{bench.world.size} ranks as one, small", "", precision, ranks_are_as_one)
        yield Claim("sum over the ranks", " ms", None, reduction_time)
    yield Claim("step of one rank alone, float32", " ms", None, lambda bench: step_time(bench, single_rank(bench.world)))
    if bench.world.size > 1:
        yield Claim("step of all ranks, float32", " ms", None, lambda bench: step_time(bench, bench.world))
    yield Claim("memory of a rank", " GiB", None, memory)
    if half := bench.half:  # last, because a process cannot return to float32
        yield Claim(f"update in {half} beside float32, small", "", _HALF_LIMIT, lambda bench: close_to_float32(bench, half))
        yield Claim(
            f"step of one rank alone, {half}", " ms", None, lambda bench: step_time(bench, single_rank(bench.world), half)
        )


def same_as_on_cpu(bench: Bench, network: Network, steps: int) -> Measured:
    """Distance between the results of some steps on this device and on the CPU."""
    world, ends = single_rank(bench.world), []
    for device in ("cpu", bench.kind):
        with new_training(network, device, world) as training:
            start = values(training)
            train(training, range(steps))
            ends.append(values(training))
    reference, result = ends
    return Measured(distance(result, reference, start), "TF32" if bench.uses_tf32 else "float32")


def dropout_follows_the_seed(bench: Bench) -> Measured:
    """Elements that differ between the masks of two graphs with the same seed; nan if another seed gives the same masks."""
    ones = mx.nd.ones((256, 4096), ctx=bench.device)

    def mask(seed: int) -> NDArray[np.float32]:
        block = SeededDropout(0.5)
        block.hybridize(static_alloc=True, static_shape=True)
        mx.random.seed(seed, ctx=bench.device)
        with autograd.record():
            return np.stack([block(ones).asnumpy(), block(ones).asnumpy()])

    first, again, other = mask(1), mask(1), mask(2)
    kept = float((first != 0).mean())
    if np.array_equal(first, other) or np.array_equal(first[0], first[1]) or abs(kept - 0.5) > 0.01:
        return Measured(float("nan"), f"{100 * kept:.2f} % kept, 50 expected; or another seed or draw gives the same mask")
    return Measured(float((first != again).sum()), f"{100 * kept:.2f} % kept")


def reduction_is_right(bench: Bench) -> Measured:
    """Wrong elements of a sum over the ranks, of an array whose elements differ."""
    world, count = bench.world, bench.scale.reduced_bytes // 4
    pattern = np.arange(count, dtype=np.int64) % 1021
    array = mx.nd.array(pattern + world.rank, ctx=bench.device, dtype="float32")
    world.reduce([array], "selftest.sum")
    expected = pattern * world.size + world.size * (world.size - 1) // 2  # below 2^24: exact
    return Measured(float((array.asnumpy() != expected).sum()), f"of {readable_bytes(4 * count)}")


def training_repeats(bench: Bench, bucket_cap_mb: float | None = None) -> Measured:
    """Arrays that differ between two trainings of all ranks with the same steps."""
    ends = []
    for _ in range(2):
        network = bench.scale.small.of(32 * bench.world.size)
        with new_training(network, bench.kind, bench.world, bucket_cap_mb=bucket_cap_mb) as training:
            train(training, range(4))
            ends.append(values(training))
            reduction = training.step.reduction
    return Measured(arrays_that_differ(*ends), f"of {len(ends[0])}; {reduction}")


def continues_from_a_snapshot(bench: Bench) -> Measured:
    """Arrays that differ after two steps, and after the same steps from a snapshot on the host of the state before them."""
    with new_training(bench.scale.small.of(32 * bench.world.size), bench.kind, bench.world) as training:
        snapshot = Snapshot(training.state.arrays)
        train(training, range(2))
        snapshot.mark()
        snapshot.take(training.state.arrays)
        train(training, range(2, 4))
        end = values(training)
        if not snapshot.is_whole():
            return Measured(float("nan"), "the snapshot is incomplete")
        restore(training.state.arrays, dict(snapshot.values()), lambda array: array)
        train(training, range(2, 4))
        return Measured(arrays_that_differ(end, values(training)), f"of {len(end)}")


def ranks_are_as_one(bench: Bench) -> Measured:
    """Distance between the results of all ranks and of one rank with the same global batch."""
    network, ends = bench.scale.small.changed(dropout=0.0, batch_norm=False).of(32 * bench.world.size), []
    for world in (bench.world, single_rank(bench.world)):
        with new_training(network, bench.kind, world) as training:
            start = values(training)
            train(training, range(3))
            ends.append(values(training))
    many, one = ends
    return Measured(distance(many, one, start))


def reduction_time(bench: Bench) -> Measured:
    """Milliseconds of a sum over the ranks; the note has the bandwidth of each link of a ring."""
    world, seconds = bench.world, []
    array = mx.nd.zeros((bench.scale.reduced_bytes // 4,), ctx=bench.device)
    for _ in range(4):
        array.wait_to_read()
        world.barrier()
        started = time.perf_counter()
        world.reduce([array], "selftest.time")
        array.wait_to_read()
        seconds.append(time.perf_counter() - started)
    best = min(seconds[1:])  # the first one opens the connections
    rate = 2 * (world.size - 1) / world.size * bench.scale.reduced_bytes / best / 1e9
    return Measured(1000 * best, f"{readable_bytes(bench.scale.reduced_bytes)}, {rate:.2f} GB/s on each link of a ring")


def close_to_float32(bench: Bench, half: str) -> Measured:
    """Distance between the results of some steps in a 16-bit type and in float32."""
    network, world, ends = bench.scale.small.changed(dropout=0.0), single_rank(bench.world), []
    for settings in ({}, {"precision": half, "loss_scale": _LOSS_SCALE}):
        with new_training(network, bench.kind, world, **settings) as training:
            start = values(training)
            train(training, range(3))
            ends.append(values(training))
    reference, result = ends
    return Measured(distance(result, reference, start), f"loss scale {_LOSS_SCALE:g}")


def step_time(bench: Bench, world: World, precision: str = "float32") -> Measured:
    """Milliseconds of a step on a batch in the device's memory."""
    network, steps = bench.scale.fast.of(bench.scale.fast.batch_size * world.size), bench.scale.timed_steps
    with new_training(network, bench.kind, world, precision=precision) as training:
        bare_step(training, 3, lambda phase: None)
        rate = bare_step(training, steps, lambda phase: None)
    ranks = f"{world.size} rank(s), " if world.size > 1 else ""
    return Measured(
        1000 * network.batch_size / rate, f"{ranks}{network.model.name}, {network.image_size} px: {rate:.1f} images/s"
    )


def memory(bench: Bench) -> Measured:
    """GiB of a training with an evaluation; the note has the estimate of ``vggdist plan``."""
    network = bench.scale.fast
    images = DataShape(network.image_size, 3, network.classes)
    before = _used(bench.device)
    with new_training(network, bench.kind, single_rank(bench.world)) as training:
        train(training, range(2))
        shape = (network.batch_size, network.image_size, network.image_size, 3)
        training.model.forward(mx.nd.zeros(shape, ctx=bench.device, dtype="uint8")).wait_to_read()
        states = len(training.config.optimizer.states)
        used = _used(bench.device) - before
    planned = estimate(network.model, images, network.batch_size, states, 0, False, network.batch_size).total
    return Measured(used / 2**30, f"plan: {planned / 2**30:.2f} GiB")


def _used(device: mx.Context) -> int:
    """Bytes used on the GPU, or by this process on a CPU, without MXNet's memory pool."""
    mx.nd.waitall()
    if device.device_type == "gpu":
        device.empty_cache()
        free, total = mx.context.gpu_memory_info(device.device_id)
        return total - free
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
