"""The learning rate as a pure function of the global step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vggdist.config.errors import RequestError
from vggdist.config.schema import OptimizerConfig, ScheduleConfig

# Share of the peak at which one_cycle starts; fast.ai and PyTorch's OneCycleLR use the same.
ONE_CYCLE_START = 1 / 25


def scaled_learning_rate(optimizer: OptimizerConfig, world_size: int) -> float:
    """Peak learning rate for this number of ranks.

    With ``optimizer.scale_learning_rate`` it grows in proportion to the ranks, as the global batch does when the batch
    of each rank is kept (linear scaling rule, Goyal et al. 2017, section 2.1).
    """
    return optimizer.learning_rate * (world_size if optimizer.scale_learning_rate else 1)


def along_cosine(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine; level at both ends. The share of the way is 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step: a linear warm-up, then the course that the configuration names.

    During the warm-up the rate rises from ``warmup_factor`` times to once the rate with which the course begins, so the
    two meet without a jump. The courses of cosine, polynomial and one_cycle span the steps that the warm-up leaves, and
    reach ``final_factor * peak`` at the boundary *after* the last step, so that no step is spent at a rate of 0.
    Milestones are epochs since the start of the training, warm-up included.

    Raises :class:`RequestError` when the warm-up is longer than the training.
    """

    config: ScheduleConfig
    peak: float
    """Highest learning rate, already scaled for the number of ranks."""
    steps_per_epoch: int
    total_steps: int

    def __post_init__(self) -> None:
        if self.warmup_steps > self.total_steps:
            raise RequestError(
                f"schedule.warmup_epochs is {self.config.warmup_epochs:g}, which is {self.warmup_steps:g} steps, but "
                f"the whole training has {self.total_steps}; shorten the warm-up or raise train.epochs (or train.steps)"
            )

    @property
    def warmup_steps(self) -> float:
        """Length of the warm-up in steps; not rounded, since the rate is defined between steps as well."""
        return self.config.warmup_epochs * self.steps_per_epoch

    def __call__(self, step: int) -> float:
        """Learning rate of the 0-based global step; a step past the end has the rate of the end."""
        return self.peak * self._warmup(step) * self._course(step)

    def _warmup(self, step: int) -> float:
        """Share of the course's rate that the warm-up allows at this step; 1 after it."""
        if step >= self.warmup_steps:
            return 1.0
        start = self.config.warmup_factor
        return start + (1 - start) * step / self.warmup_steps

    def _course(self, step: int) -> float:
        """Share of the peak, warm-up aside."""
        config, progress = self.config, self._progress(step)
        match config.name:
            case "constant":
                return 1.0
            case "step":
                # Divided rather than multiplied: 0.1 * 30 is above 3 in floating point, but 3 / 30 is 0.1.
                passed = sum(step / self.steps_per_epoch >= milestone for milestone in config.milestones)
                return config.gamma**passed
            case "cosine":
                return along_cosine(1.0, config.final_factor, progress)
            case "polynomial":
                return config.final_factor + (1 - config.final_factor) * (1 - progress) ** config.power
            case "one_cycle" if progress < config.rise:
                return along_cosine(ONE_CYCLE_START, 1.0, progress / config.rise)
            case "one_cycle":
                return along_cosine(1.0, config.final_factor, (progress - config.rise) / (1 - config.rise))
        raise ValueError(f"schedule.name is {config.name!r}, which is no schedule")

    def _progress(self, step: int) -> float:
        """Share from 0 to 1 of the steps after the warm-up that lies behind this step."""
        span = self.total_steps - self.warmup_steps
        # A warm-up that fills the whole training leaves the course no span: it stays at its beginning.
        return min(max(step - self.warmup_steps, 0.0) / span, 1.0) if span > 0 else 0.0
