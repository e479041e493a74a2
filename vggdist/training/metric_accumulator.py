"""Metrics of the steps between two reports: left on the device, then read and reduced over the ranks once."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints.schema import IntervalState
from vggdist.collectives.world import World
from vggdist.config.errors import RunError, agreed
from vggdist.data.augment import Batch
from vggdist.training.metrics import MovingAverage
from vggdist.training.step import StepOutcome

_REMEDY = (
    "lower optimizer.learning_rate, set optimizer.clip_norm or schedule.warmup_epochs, or skip such steps with "
    "--train.nonfinite skip"
)


@dataclass(frozen=True)
class StepSums:
    """Sums over the ranks, one entry for each step.

    Attributes:
        losses: ``(n,) float64`` sums of the samples' losses; not finite if the loss of the step was not.
        hits: ``(n,) float64`` predictions that agree with the target.
        samples: ``(n,) int64`` samples without padding.
        skipped: ``(n,) bool`` whether the update was skipped.
    """

    losses: NDArray[np.float64]
    hits: NDArray[np.float64]
    samples: NDArray[np.int64]
    skipped: NDArray[np.bool_]

    @classmethod
    def of(cls, state: IntervalState | None) -> StepSums:
        """The sums that :meth:`as_state` returned; None: no steps."""
        state = state or {"losses": [], "hits": [], "samples": [], "skipped": []}
        losses = [np.nan if loss is None else loss for loss in state["losses"]]
        hits, samples = np.array(state["hits"], np.float64), np.array(state["samples"], np.int64)
        return cls(np.array(losses, np.float64), hits, samples, np.array(state["skipped"], bool))

    def as_state(self) -> IntervalState:
        """JSON values without loss of precision; a loss that is not finite is null."""
        losses = [loss if np.isfinite(loss) else None for loss in self.losses.tolist()]
        return {
            "losses": losses,
            "hits": self.hits.tolist(),
            "samples": self.samples.tolist(),
            "skipped": self.skipped.tolist(),
        }

    def followed_by(self, other: StepSums) -> StepSums:
        """The steps of both, in order."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__annotations__)
        return StepSums(*(np.concatenate(pair) for pair in pairs))


class MetricAccumulator:
    """Accumulates the outcomes of the steps since the last report."""

    def __init__(self, world: World, first_step: int, earlier: IntervalState | None = None) -> None:
        """Start with no steps of this process.

        Args:
            first_step: finished steps now.
            earlier: what :meth:`as_state` returned for the steps that an earlier process made since the last report.
        """
        self._world = world
        self._first_step = first_step
        self._earlier = StepSums.of(earlier)
        self._outcomes: list[StepOutcome] = []
        self._num_valid: list[int] = []
        self._started = 0.0
        self._data_wait = 0.0

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time spent here counts as waiting for data. The first call starts the clock."""
        called = time.perf_counter()
        if not self._outcomes:
            self._started = called
        batch = next(batches)
        self._data_wait += time.perf_counter() - called
        return batch

    def add(self, outcome: StepOutcome, num_valid: int) -> None:
        """Add a step; ``num_valid`` is the number of samples in its global batch."""
        self._outcomes.append(outcome)
        self._num_valid.append(num_valid)

    def as_state(self, stop_at_nonfinite: bool) -> IntervalState:
        """The steps so far, for a checkpoint between two reports. Every rank must call this.

        Raises:
            RunError: as :meth:`metrics` does.
        """
        sums = self._earlier.followed_by(self._read(stop_at_nonfinite)) if self._outcomes else self._earlier
        return sums.as_state()

    def metrics(
        self, learning_rate: float, moving_average: MovingAverage, stop_at_nonfinite: bool, device: mx.Context
    ) -> dict[str, float]:
        """Read the device, sum over the ranks and update the moving average step by step. Every rank must call this.

        Raises:
            RunError: on every rank, with ``stop_at_nonfinite``, for the first loss that is not finite (the message has step
                and rank), or if the newest gradient is not finite.
        """
        own = self._read(stop_at_nonfinite)
        seconds = time.perf_counter() - self._started  # _read has waited for the device
        sums = self._earlier.followed_by(own)
        kept = np.isfinite(sums.losses)
        for loss in (sums.losses / sums.samples)[kept]:
            moving_average.update(loss)
        samples = sums.samples[kept].sum() if kept.any() else np.nan  # with train.nonfinite skip there may be none
        norm = self._norm(stop_at_nonfinite)
        return {
            "train/loss": float(sums.losses[kept].sum() / samples),
            "train/loss_moving_average": float("nan") if moving_average.value is None else moving_average.value,
            "train/top1(%)": float(100 * sums.hits[kept].sum() / samples),
            "train/skipped_steps": float(sums.skipped.sum()),
            "optim/learning_rate": learning_rate,
            "optim/grad_norm": norm,
            "throughput/images_per_s": own.samples.sum() / seconds,
            "time/step(ms)": 1000 * seconds / len(own.samples),
            "time/data_wait(%)": 100 * self._data_wait / seconds,
            "memory/device(GiB)": _memory(device) / 2**30,
        }

    def layer_norms(self) -> dict[str, float]:
        """Norms by metric name of the newest step, if it computed them; waits for the device."""
        norms = self._outcomes[-1].layer_norms
        return dict(zip(norms, _read([*norms.values()]).tolist())) if norms else {}

    def _read(self, stop_at_nonfinite: bool) -> StepSums:
        """The steps of this process, summed over the ranks; waits for the device."""
        count = len(self._outcomes)
        losses = _read([outcome.loss for outcome in self._outcomes])
        hits = _read([outcome.hits for outcome in self._outcomes])
        first_bad = np.zeros(self._world.size)
        first_bad[self._world.rank] = next((i + 1 for i, loss in enumerate(losses) if not np.isfinite(loss)), 0)
        losses, hits, first_bad = np.split(self._world.sum(np.concatenate([losses, hits, first_bad])), [count, 2 * count])
        if stop_at_nonfinite and first_bad.any():
            raise agreed(self._not_finite(first_bad))
        finite = [outcome.finite for outcome in self._outcomes if outcome.finite is not None]
        skipped = _read(finite) == 0 if finite else np.zeros(count, bool)
        return StepSums(losses, hits, np.array(self._num_valid, np.int64), skipped)

    def _norm(self, stop_at_nonfinite: bool) -> float:
        """Norm of the newest step's gradient, the same on every rank; nan if it was not computed."""
        newest = self._outcomes[-1]
        if newest.gradient_norm is None:
            return float("nan")
        norm = float(newest.gradient_norm.asscalar())
        if stop_at_nonfinite and newest.finite is None and not np.isfinite(norm):
            raise agreed(RunError(f"the gradient of step {self._first_step + len(self._outcomes)} is not finite; {_REMEDY}"))
        return norm

    def _not_finite(self, first_bad: NDArray[np.float64]) -> RunError:
        """The error for the earliest such step, and the first rank on it."""
        earliest = int(first_bad[first_bad > 0].min())
        rank = int(np.flatnonzero(first_bad == earliest)[0])
        return RunError(f"the loss of step {self._first_step + earliest} on rank {rank} is not finite; {_REMEDY}")


def _read(scalars: list[mx.nd.NDArray]) -> NDArray[np.float64]:
    """Values of ``(1,)`` arrays as ``(n,) float64``; waits for the device, once."""
    return mx.nd.concat(*scalars, dim=0).asnumpy().astype(np.float64)


def _memory(device: mx.Context) -> int:
    """Bytes in use on the GPU, or the largest resident size of this process on the CPU."""
    if device.device_type == "gpu":
        free, total = mx.context.gpu_memory_info(device.device_id)
        return total - free
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
