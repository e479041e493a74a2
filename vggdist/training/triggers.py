"""Triggers of reports, evaluations, checkpoints and rank comparisons: pure functions of the number of finished steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vggdist.config.schema import Config


@dataclass(frozen=True)
class Due:
    """Actions that are due after a step."""

    report: bool = False
    evaluation: bool = False
    checkpoint: bool = False
    comparison: bool = False


@dataclass(frozen=True)
class Triggers:
    """When the actions of a run are due.

    Attributes:
        steps_per_epoch: the same on every rank.
        total_steps: steps of the whole run.
    """

    config: Config
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> Triggers:
        """The triggers of a configuration; ``train.steps`` overrides ``train.epochs``."""
        steps = config.train.steps
        if steps is None:  # 0.07 epochs of 100 steps are 7.000000000000001 in floating point, and 7 steps
            steps = max(1, math.ceil(round(config.train.epochs * steps_per_epoch, 6)))
        return cls(config, steps_per_epoch, steps)

    def epoch(self, finished_steps: int) -> float:
        """Passes over the training set that the finished steps make."""
        return finished_steps / self.steps_per_epoch

    def work(self, finished_steps: int, image_size: int) -> float:
        """Pixels of an image, summed over the finished steps, as multiples of its final size.

        Args:
            image_size: final side of the images in pixels; before, they have those of ``augment.progressive``.
        """
        epochs, rest = divmod(finished_steps, self.steps_per_epoch)
        pixels = [(self.config.augment.side(epoch, image_size) / image_size) ** 2 for epoch in range(epochs + 1)]
        return self.steps_per_epoch * sum(pixels[:-1]) + rest * pixels[-1]

    def due(self, finished_steps: int) -> Due:
        """The actions after the ``finished_steps``-th step. An evaluation or a checkpoint always comes with a report."""
        config, last = self.config, finished_steps == self.total_steps
        evaluation = last or self._is_due(finished_steps, None, config.evaluation.every_epochs)
        checkpoint = last or self._is_due(finished_steps, config.checkpoint.every_steps, config.checkpoint.every_epochs)
        comparison = self._is_due(finished_steps, config.run.drift_steps, 1)
        report = evaluation or checkpoint or finished_steps % config.run.log_every == 0
        return Due(report, evaluation, checkpoint, comparison)

    def _is_due(self, finished_steps: int, every_steps: int | None, every_epochs: int) -> bool:
        """Whether a step completes a period; a period of 0 means never, and steps override epochs."""
        period = self.steps_per_epoch * every_epochs if every_steps is None else every_steps
        return period > 0 and finished_steps > 0 and finished_steps % period == 0
