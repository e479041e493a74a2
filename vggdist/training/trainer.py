"""The training loop: the only place that knows the order of things."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from vggdist.checkpoints.state import capture
from vggdist.checkpoints.store import Checkpoint
from vggdist.config.errors import RunError, agreed
from vggdist.data.augment import Batch
from vggdist.data.loader import prefetch
from vggdist.reporting.report import Report
from vggdist.training.evaluation import evaluate
from vggdist.training.interval import Interval
from vggdist.training.progress import Progress, metric_name
from vggdist.training.setup import Setup


class Trainer:
    """Trains what :func:`~vggdist.training.setup.prepare` has set up, from the step at which it stands to the end."""

    def __init__(self, setup: Setup, report: Report) -> None:
        self.setup = setup
        self.report = report

    def train(self) -> Progress:
        """Make every step that is left, and report, evaluate and save when each is due.

        Raises:
            RunError: on every rank, when a loss or a parameter is not finite.
        """
        setup, progress = self.setup, self.setup.progress
        batches = self._batches(progress.step)
        interval = Interval(setup.world, progress.step)

        while progress.step < setup.calendar.total_steps:
            batch = interval.next_of(batches)
            due = setup.calendar.due(progress.step + 1)
            learning_rate = setup.schedule(progress.step)
            num_valid = setup.plan.num_valid(progress.step % setup.plan.steps_per_epoch)
            outcome = setup.step(batch, progress.step, learning_rate, num_valid, measure=due.report)
            interval.add(outcome, num_valid)
            progress.step += 1
            self.report.advance(progress.step)

            if due.report:
                self._report(interval, learning_rate)
            improved = due.evaluation and self._evaluate()
            if due.checkpoint or improved:
                self._save()
            if due.report:
                interval = Interval(setup.world, progress.step)
        return progress

    def _batches(self, first_step: int) -> Iterator[Batch]:
        """This rank's batches from a global step on, prepared ahead by threads."""
        data = self.setup.config.data
        return prefetch(self._batch_tasks(first_step), data.threads, data.prefetch)

    def _batch_tasks(self, first_step: int) -> Iterator[partial[Batch]]:
        setup, plan = self.setup, self.setup.plan
        order, ordered_epoch = np.empty(0, np.int64), -1
        for step in range(first_step, setup.calendar.total_steps):
            epoch, step_of_epoch = divmod(step, plan.steps_per_epoch)
            if epoch != ordered_epoch:
                order, ordered_epoch = plan.order(epoch), epoch
            samples, mask = plan.part(order, step_of_epoch, setup.world.rank)
            yield partial(setup.training_view.batch, epoch, samples, mask)

    def _report(self, interval: Interval, learning_rate: float) -> None:
        setup, progress = self.setup, self.setup.progress
        stop = setup.config.train.nonfinite == "stop"
        metrics = interval.metrics(learning_rate, progress.moving_average, stop, setup.device)
        progress.training_metrics = metrics
        self.report.training(progress.step, setup.calendar.epoch(progress.step), metrics)

    def _evaluate(self) -> bool:
        """Measure the data sets that are asked for; tell whether the test set's best metric improved."""
        setup, progress = self.setup, self.setup.progress
        for part, view in setup.evaluation_views.items():
            sums = evaluate(setup.forward, view, setup.num_classes, setup.world, setup.config, setup.device)
            metrics = {metric_name(part, name): value for name, value in sums.result().items()}
            progress.evaluation_metrics.update(metrics)
            epoch = setup.calendar.epoch(progress.step)
            self.report.evaluation(progress.step, epoch, part, metrics, sums.confusion())
        return progress.note_best(setup.config.checkpoint.best_metric)

    def _save(self) -> None:
        """Write a checkpoint. Rank 0 writes; all ranks learn whether it could."""
        setup, keep_last = self.setup, self.setup.config.checkpoint.keep_last
        try:
            arrays = capture(setup.arrays)
        except RunError as error:
            raise agreed(error) from None  # all ranks hold the same parameters, so all raise it

        def write() -> None:
            if setup.world.is_root:
                setup.store.save(Checkpoint(arrays, setup.checkpoint_state()))
                setup.store.prune(keep_last, setup.progress.best_step)

        setup.world.together(write)
