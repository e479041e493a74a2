"""The steps between two reports: kept on the device while they run, read and reduced over the ranks once at the end."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import mxnet as mx
import numpy as np

from vggdist.config.errors import RunError, agreed
from vggdist.data.augment import Batch
from vggdist.training.metrics import MovingAverage
from vggdist.training.step import StepOutcome
from vggdist.world.process import World

# Steps that may wait on the device. Without a bound the host would hand over a whole interval, and its images, at once.
_STEPS_AHEAD = 4


class Interval:
    """Collects the outcomes of steps."""

    def __init__(self, world: World, first_step: int) -> None:
        self._world = world
        self._first_step = first_step
        self._outcomes: list[StepOutcome] = []
        self._num_valid: list[int] = []
        self._started = time.perf_counter()
        self._data_wait = 0.0

    def next_of(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time until it is there counts as waiting for data."""
        asked = time.perf_counter()
        batch = next(batches)
        self._data_wait += time.perf_counter() - asked
        return batch

    def add(self, outcome: StepOutcome, num_valid: int) -> None:
        """Take in a step; ``num_valid`` is the number of samples in its global batch."""
        self._outcomes.append(outcome)
        self._num_valid.append(num_valid)
        if len(self._outcomes) > _STEPS_AHEAD:
            self._outcomes[-1 - _STEPS_AHEAD].loss.wait_to_read()

    def metrics(
        self, learning_rate: float, moving_average: MovingAverage, stop_at_nonfinite: bool, device: mx.Context
    ) -> dict[str, float]:
        """Read the device, sum over the ranks and update the moving average step by step. Every rank must call this.

        Raises:
            RunError: on every rank, for the first loss that is not finite, naming step and rank, unless such steps are
                skipped.
        """
        count = len(self._outcomes)
        losses = _read([outcome.loss for outcome in self._outcomes])
        hits = _read([outcome.hits for outcome in self._outcomes])
        first_bad = np.zeros(self._world.size)
        first_bad[self._world.rank] = next((i + 1 for i, loss in enumerate(losses) if not np.isfinite(loss)), 0)
        seconds = time.perf_counter() - self._started
        losses, hits, first_bad = np.split(self._world.sum(np.concatenate([losses, hits, first_bad])), [count, 2 * count])
        if stop_at_nonfinite and first_bad.any():
            raise agreed(self._not_finite(first_bad))
        samples = np.array(self._num_valid)
        kept = np.isfinite(losses)
        for loss in (losses / samples)[kept]:
            moving_average.update(loss)
        norm = self._outcomes[-1].gradient_norm
        return {
            "train/loss": float(losses[kept].sum() / max(1, samples[kept].sum())),
            # None until a first finite loss: with train.nonfinite skip there may be none yet.
            "train/loss_moving_average": float("nan") if moving_average.value is None else moving_average.value,
            "train/top1(%)": float(100 * hits[kept].sum() / max(1, samples[kept].sum())),
            "train/skipped_steps": float(sum(outcome.skipped for outcome in self._outcomes)),
            "optim/learning_rate": learning_rate,
            "optim/grad_norm": float(norm.asscalar()) if norm is not None else float("nan"),
            "throughput/images_per_s": samples.sum() / seconds,
            "time/step(ms)": 1000 * seconds / count,
            "time/data_wait(%)": 100 * self._data_wait / seconds,
            "memory/device(GiB)": _memory(device) / 2**30,
        }

    def _not_finite(self, first_bad: np.ndarray) -> RunError:
        """The earliest step of any rank, and on it the first rank."""
        earliest = int(first_bad[first_bad > 0].min())
        rank = int(np.flatnonzero(first_bad == earliest)[0])
        return RunError(
            f"the loss of step {self._first_step + earliest} on rank {rank} is not finite; lower "
            "optimizer.learning_rate, set optimizer.clip_norm or schedule.warmup_epochs, or leave such steps "
            "out with --train.nonfinite skip"
        )


def _read(scalars: list[mx.nd.NDArray]) -> np.ndarray:
    """Values of ``(1,)`` arrays as ``(n,) float64``; waits for the device, once."""
    return mx.nd.concat(*scalars, dim=0).asnumpy().astype(np.float64)


def _memory(device: mx.Context) -> int:
    """Bytes in use on the GPU, or the largest resident size of this process on the CPU."""
    if device.device_type == "gpu":
        free, total = mx.context.gpu_memory_info(device.device_id)
        return total - free
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
