"""The learning rate as a pure function of the global step, so a checkpoint need not store it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vggdist.config.errors import RequestError
from vggdist.config.schema import OptimizerConfig, ScheduleConfig

# Fraction of the peak at which one_cycle starts; fast.ai and PyTorch's OneCycleLR use the same.
ONE_CYCLE_START = 1 / 25


def scaled_learning_rate(optimizer: OptimizerConfig, world_size: int) -> float:
    """Peak learning rate for a number of ranks.

    With ``optimizer.scale_learning_rate`` it is proportional to the ranks, as the global batch is if the batch of each rank
    is constant (linear scaling rule, Goyal et al. 2017, section 2.1).
    """
    return optimizer.learning_rate * (world_size if optimizer.scale_learning_rate else 1)


def along_cosine(start: float, end: float, share: float) -> float:
    """Value on half a cosine from start (``share`` 0) to end (``share`` 1), flat at both."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step: a linear warm-up, then the schedule that the configuration names.

    During the warm-up the rate rises from ``warmup_factor`` times to once the initial rate of the schedule, so there is no
    jump between the two. cosine, polynomial and one_cycle span the steps after the warm-up, and reach
    ``final_factor * peak`` *after* the last step, so that no step has a rate of 0.
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
        """Length of the warm-up in steps; not rounded."""
        return self.config.warmup_epochs * self.steps_per_epoch

    def __call__(self, step: int) -> float:
        """Learning rate of the 0-based global step; after the end, the rate of the end."""
        return self.peak * self._warmup(step) * self._main(step)

    def _warmup(self, step: int) -> float:
        """Factor of the warm-up at this step; 1 after it."""
        if step >= self.warmup_steps:
            return 1.0
        start = self.config.warmup_factor
        return start + (1 - start) * step / self.warmup_steps

    def _main(self, step: int) -> float:
        """Factor of the schedule without the warm-up."""
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
        raise ValueError(f"schedule.name is {config.name!r}, which is not a schedule")

    def _progress(self, step: int) -> float:
        """Fraction of the steps after the warm-up that are finished."""
        span = self.total_steps - self.warmup_steps
        # If the warm-up fills the whole training, the schedule stays at its start.
        return min(max(step - self.warmup_steps, 0.0) / span, 1.0) if span > 0 else 0.0
