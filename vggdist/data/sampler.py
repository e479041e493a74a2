"""Distributed sampling: the samples of each rank and step as a pure function of (seed, epoch, step).

An epoch is one permutation of the data set. Global batch ``k`` is its ``k``-th slice, and each rank takes its part of that
slice. So the samples of a step do not depend on the number of ranks, and all ranks have the same number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.data.randomness import permutation


@dataclass(frozen=True)
class SamplePlan:
    """The order of a training set.

    Attributes:
        num_samples: size of the data set.
        global_batch_size: samples of one step over all ranks.
        world_size: number of ranks; if the global batch is not divisible by it, the last ranks have fewer samples.
        drop_last: drop the last incomplete batch; otherwise it is padded and masked.
        accumulation: number of equal micro-batches of each rank's batch.
    """

    num_samples: int
    global_batch_size: int
    world_size: int
    seed: int
    drop_last: bool = False
    accumulation: int = 1

    @property
    def batch_size(self) -> int:
        """Slots per rank and step, the same on every rank; slots without a sample are masked."""
        return -(-self.global_batch_size // (self.world_size * self.accumulation)) * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, the same on every rank."""
        full, rest = divmod(self.num_samples, self.global_batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def num_valid(self, step: int) -> int:
        """Samples without padding in the global batch of a step of an epoch."""
        return min(self.global_batch_size, self.num_samples - step * self.global_batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """All samples in the order of an epoch: ``(num_samples,) int64``."""
        return permutation(self.seed, epoch, self.num_samples)

    def part(self, order: NDArray[np.int64], step: int, rank: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """A rank's samples of a step.

        Returns:
            samples: ``(batch_size,) int64``; padding repeats samples of the same global batch.
            mask: ``(batch_size,) float32``, 0 for padding.
        """
        start = step * self.global_batch_size
        valid = self.num_valid(step)
        slots = np.arange(rank * self.batch_size, (rank + 1) * self.batch_size)
        return order[start + slots % valid], (slots < valid).astype(np.float32)


def global_batch_size(batch_size: int, requested: int | None, world_size: int, accumulation: int) -> int:
    """The samples of one step over all ranks.

    Args:
        batch_size: samples of one rank, used if ``requested`` is None.
        world_size: number of ranks at the start of the run.

    Raises:
        RequestError: it is not divisible by the ranks times the accumulation.
    """
    size = batch_size * world_size if requested is None else requested
    key = "train.batch_size" if requested is None else "train.global_batch_size"
    parts = world_size * accumulation
    if size % parts:
        fitting = [multiple * parts for multiple in (size // parts, size // parts + 1) if multiple]
        raise RequestError(
            f"{key} results in a global batch of {size} samples, which is not divisible by {world_size} ranks with "
            f"train.accumulation {accumulation}; use {' or '.join(map(str, fitting))} samples over all ranks"
        )
    return size


def make_plan(
    num_samples: int, global_batch: int, world_size: int, seed: int, drop_last: bool, accumulation: int = 1
) -> SamplePlan:
    """Make the plan; every rank must have samples.

    Raises:
        RequestError: there are more ranks than samples, or the global batch is larger than the data set.
    """
    if world_size > num_samples:
        raise RequestError(f"{world_size} ranks for {num_samples} training samples; start at most {num_samples} ranks")
    if global_batch > num_samples:
        raise RequestError(
            f"the global batch has {global_batch} samples, the training set only {num_samples}; "
            f"use at most {num_samples // world_size} samples per rank, or start fewer ranks"
        )
    return SamplePlan(num_samples, global_batch, world_size, seed, drop_last, accumulation)


def evaluation_batches(num_samples: int, batch_size: int, world_size: int, rank: int) -> list[NDArray[np.int64]]:
    """A rank's batches of an evaluation; each sample of the data set is in exactly one batch of one rank.

    The data set is divided into batches before these are distributed, so the batches do not depend on the number of ranks.
    This matters because the last bit of a network's output for a sample can depend on its position in the batch.
    """
    starts = range(rank * batch_size, num_samples, world_size * batch_size)
    return [np.arange(start, min(start + batch_size, num_samples)) for start in starts]
