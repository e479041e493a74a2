"""Small trainings for the checks, set up by the same code as a run."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.collectives.world import World
from vggdist.config.images import DataConfig
from vggdist.config.schema import (
    Config,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from vggdist.training.setup import Training, prepare

Parameters = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Network:
    """The network of a check, and the size of its images.

    Attributes:
        batch_size: of all ranks together.
    """

    model: ModelConfig
    image_size: int
    classes: int
    batch_size: int

    def config(self, device: str, **train: Any) -> Config:
        """The configuration of a run on synthetic data that writes no files.

        Args:
            train: settings of the section ``train``.
        """
        batch = self.batch_size
        return Config(
            run=RunConfig(name="selftest", resume="never", device=device),  # type: ignore[arg-type]
            model=self.model,
            data=DataConfig(
                name="synthetic",
                image_size=self.image_size,
                synthetic_samples=max(4, 4 * batch),
                synthetic_classes=self.classes,
            ),
            optimizer=OptimizerConfig(learning_rate=0.01, momentum=0.9, weight_decay=1e-4),
            schedule=ScheduleConfig(name="constant"),
            train=TrainConfig(steps=100, global_batch_size=batch, **train),
            evaluation=EvaluationConfig(batch_size=batch),
        )

    def of(self, batch_size: int) -> Network:
        """A copy with another batch size."""
        return replace(self, batch_size=batch_size)

    def changed(self, **model: Any) -> Network:
        """A copy with other values of ``model``."""
        return replace(self, model=replace(self.model, **model))


_SMALL = ModelConfig(name="custom", stages=((2, 32), (2, 64)), batch_norm=True, hidden=(256,))


@dataclass(frozen=True)
class Scale:
    """Sizes of the checks.

    Attributes:
        small, full: networks that are compared with the CPU, and between two trainings.
        fast: network whose speed and memory are measured, with its batch size on each rank.
        reduced_bytes: size of the array whose reduction is measured.
    """

    small: Network = field(default_factory=lambda: Network(_SMALL, 32, 10, 32))
    full: Network = field(default_factory=lambda: Network(ModelConfig(name="vgg16"), 224, 1000, 2))
    fast: Network = field(default_factory=lambda: Network(ModelConfig(name="vgg16"), 224, 1000, 64))
    reduced_bytes: int = 512 * 2**20
    timed_steps: int = 20

    @classmethod
    def of(cls, device: mx.Context) -> Scale:
        """The default sizes on a GPU; smaller timings on a CPU, where VGG-16 processes a few images per second."""
        if device.device_type == "gpu":
            return cls()
        return cls(fast=Network(ModelConfig(name="vgg16"), 224, 1000, 4), reduced_bytes=64 * 2**20, timed_steps=3)


def single_rank(world: World) -> World:
    """A world in which this process is rank 0 of 1; it keeps its local rank and so its device."""
    single = copy.copy(world)
    single.rank, single.size = 0, 1
    return single


@contextmanager
def new_training(network: Network, device: str, world: World, **train: Any) -> Iterator[Training]:
    """A training at step 0; its memory is freed at the end. Every rank of ``world`` must call this."""
    training = prepare(network.config(device, **train), world)
    try:
        yield training
    finally:
        mx.nd.waitall()
        vars(training).clear()
        gc.collect()


def train(training: Training, steps: range) -> None:
    """Train some steps, on batches in the order of a run."""
    for number in steps:
        samples = training.inputs.plan.part(
            training.inputs.plan.order(0), number % training.inputs.plan.steps_per_epoch, training.world.rank
        )
        batch = training.inputs.training_view.batch(0, *samples)
        flags = mx.nd.zeros((3,), ctx=training.device)
        training.step(batch, number, 0.01, training.inputs.plan.num_valid(0), flags, measure=False)
        flags.wait_to_read()  # the next step may use the same name


def values(training: Training) -> Parameters:
    """All arrays of a checkpoint, on the host."""
    return {name: array.asnumpy() for name, array in training.state.arrays.items()}


def distance(one: Parameters, other: Parameters, start: Parameters) -> float:
    """Euclidean distance between the parameters of two trainings, relative to the distance of the second from the start."""
    names = [name for name in start if name.startswith("parameter/")]
    moved = sum(_square(other[name] - start[name]) for name in names)
    return float(np.sqrt(sum(_square(one[name] - other[name]) for name in names) / moved)) if moved > 0 else float("nan")


def _square(values: NDArray[Any]) -> float:
    """The square of the Euclidean norm."""
    return float(np.dot(values.reshape(-1), values.reshape(-1)))


def arrays_that_differ(one: Parameters, other: Parameters) -> int:
    """The number of arrays that differ in any bit."""
    return sum(one[name].tobytes() != other[name].tobytes() for name in one)
