"""The training loop: steps, and after each step the report, checkpoint, evaluation or rank comparison that is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import NoReturn

from vggdist.checkpoints.schema import CheckpointState
from vggdist.checkpoints.state import digests
from vggdist.checkpoints.writer import CheckpointWriter
from vggdist.collectives.consensus import Consensus
from vggdist.config.errors import RunError, Stopped, agreed
from vggdist.data.augment import Batch, EvaluationView
from vggdist.data.loader import batch_tasks, prefetch
from vggdist.elastic.generations import HostsChanged
from vggdist.elastic.state import ElasticState
from vggdist.processes.signals import StopRequests
from vggdist.reporting.metric_names import named
from vggdist.reporting.report import Report
from vggdist.training.evaluation import Evaluation, evaluate
from vggdist.training.metric_accumulator import MetricAccumulator
from vggdist.training.progress import Progress
from vggdist.training.setup import Training
from vggdist.training.triggers import Due


class Trainer:
    """Runs a training that :func:`~vggdist.training.setup.prepare` has set up, from its current step to its end.

    Every rank runs the same loop. Reports and checkpoints are written by rank 0; the other ranks take part in their
    collectives.
    """

    def __init__(
        self,
        training: Training,
        report: Report,
        stop: StopRequests,
        beat: Callable[[str], None] = lambda phase: None,
        elastic_state: ElasticState | None = None,
    ) -> None:
        """Start the checkpoint writer on rank 0.

        Args:
            report: where metrics go; a silent one on the ranks above 0.
            stop: this process's requests to stop.
            beat: the watchdog's heartbeat, called with the current phase.
            elastic_state: holds commits of the training in memory; None if the run is not elastic.
        """
        self.training = training
        self.report = report
        self.stop = stop
        self.beat = beat
        self.elastic_state = elastic_state
        self.writer = None
        if training.world.is_root:
            keep = training.config.checkpoint
            self.writer = CheckpointWriter(training.store, training.state.arrays, keep.keep_last, keep.keep_every, report.sync)
        self.consensus = Consensus(
            training.world,
            training.device,
            stop=lambda: stop.reason is not None,
            failed=self._training_failed,
            hosts_changed=lambda: elastic_state is not None and elastic_state.hosts_changed,
            checkpoint=self._is_checkpoint_late,
        )
        self._saved_step, self._saved_at = training.state.progress.step, time.monotonic()

    def train(self) -> Progress:
        """Make all remaining steps, and report, evaluate and save when due.

        Raises:
            Stopped: on every rank, when any rank received a request to stop and the checkpoint is on the disk.
            RunError: on every rank, when a loss or a parameter is not finite, the ranks' parameters differ, or the last
                checkpoint could not be written.
            HostsChanged: on every rank of an elastic run, when its hosts have changed and the training is committed.
        """
        with self.writer or nullcontext():
            self._loop()
            self._wait_for_checkpoint()
        return self.training.state.progress

    def _loop(self) -> None:
        training, progress = self.training, self.training.state.progress
        batches = self._batches(progress.step)
        accumulator = MetricAccumulator(training.world, progress.step, progress.interval)
        self._finish_interrupted_evaluation(accumulator)
        self._commit(accumulator)

        while not training.state.is_over:
            self.beat(f"step {progress.step + 1}")
            batch = accumulator.next_batch(batches)
            due = training.state.triggers.due(progress.step + 1)
            learning_rate = training.state.schedule(progress.step)
            num_valid = training.inputs.plan.num_valid(progress.step % training.inputs.plan.steps_per_epoch)
            flags = self.consensus.local_flags()
            outcome = training.step(batch, progress.step, learning_rate, num_valid, flags, measure=due.report)
            accumulator.add(outcome, num_valid)
            progress.step += 1
            self.report.advance(progress.step)
            agreed_flags = self.consensus.read(flags)  # those of the step before, so that the device is not idle
            self._confirm_commit()

            if due.report:
                self._report(accumulator, learning_rate)
                accumulator = MetricAccumulator(training.world, progress.step)
            if agreed_flags.failed:
                self._wait_for_checkpoint()  # raises the failure on all ranks
            if agreed_flags.stop:
                self._save_and_stop(accumulator)
            if agreed_flags.hosts_changed:
                self._commit_and_regroup(accumulator)
            if due.comparison:
                self._compare_ranks()
            if agreed_flags.checkpoint and progress.step > self._saved_step + 1:  # not for a flag from before the newest one
                due = replace(due, checkpoint=True)
            self._evaluate_and_save(due, accumulator)

    def _finish_interrupted_evaluation(self, accumulator: MetricAccumulator) -> None:
        """Evaluate and save at the current step if a stop came before that was done, or if the run now ends here."""
        state, step = self.training.state, self.training.state.progress.step
        due = state.triggers.due(step) if step > 0 else Due()
        if step > 0 and (due.evaluation or state.is_over) and not self.training.is_evaluated:
            self._evaluate_and_save(replace(due, evaluation=True), accumulator)

    def _evaluate_and_save(self, due: Due, accumulator: MetricAccumulator) -> None:
        """Save and evaluate if due, then save the new metrics or the new best; an elastic run commits with each report."""
        if due.checkpoint:
            self._save(accumulator)  # first: the evaluation may take long, or fail
        improved = due.evaluation and self._evaluate(accumulator)
        if due.checkpoint and due.evaluation:
            self._amend(accumulator)
        elif improved or self.training.state.is_over:
            self._save(accumulator)
        if due.report:
            self._commit(accumulator)

    def _batches(self, first_step: int) -> Iterator[Batch]:
        """This rank's batches from a global step on, prefetched by threads."""
        data = self.training.config.data
        return prefetch(self._batch_tasks(first_step), data.threads, data.prefetch)

    def _batch_tasks(self, first_step: int) -> Iterator[partial[Batch]]:
        training, steps = self.training, range(first_step, self.training.state.triggers.total_steps)
        return batch_tasks(training.inputs.plan, training.inputs.training_view, training.world.rank, steps)

    def _report(self, accumulator: MetricAccumulator, learning_rate: float) -> None:
        training, progress = self.training, self.training.state.progress
        self.beat(f"report after step {progress.step}")
        metrics = accumulator.metrics(learning_rate, progress.moving_average, self._stops_at_nonfinite, training.device)
        metrics |= training.step.loss_scale.metrics()
        progress.training_metrics = metrics
        self.report.training(progress.step, training.state.triggers.epoch(progress.step), metrics | accumulator.layer_norms())
        # Time to reserve before a deadline: the ranks agree on a stop within two steps, then a checkpoint is written.
        self.stop.reserve = 3 * metrics["time/step(ms)"] / 1000 + 2 * (self.writer.seconds if self.writer else 0)

    def _evaluate(self, accumulator: MetricAccumulator) -> bool:
        """Evaluate and report; returns whether the metric that selects the best checkpoint improved.

        If the run ends at a step that it evaluated before a setting was changed, only the final views are evaluated.
        """
        training, progress, improved = self.training, self.training.state.progress, False
        results: dict[str, Evaluation] = {}
        if progress.evaluated_step != progress.step:
            results = self._evaluate_views(training.inputs.evaluation_views, accumulator)
            progress.evaluated_step = progress.step
            improved = progress.update_best(training.inputs.selection_part, training.config.checkpoint.best_metric)
        progress.drop_metrics(training.inputs.final_views)
        if is_last := training.state.is_over:
            results |= self._evaluate_views(training.inputs.final_views, accumulator)
        epoch = training.state.triggers.epoch(progress.step)
        for part, result in results.items():
            self.report.evaluation(progress.step, epoch, part, named(part, result.metrics), result.confusion)
        self.report.best(progress.step, training.config.checkpoint.best_metric, progress.best_value)
        if is_last:
            self.report.mistakes(progress.step, results["eval"].mistakes.of_all_ranks(training.world, training.model.spec))
        return improved

    def _evaluate_views(self, views: Mapping[str, EvaluationView], accumulator: MetricAccumulator) -> dict[str, Evaluation]:
        training, config, results = self.training, self.training.config, {}
        for part, view in views.items():
            with training.average.in_network():
                result = evaluate(
                    training.model, view, training.world, config.evaluation.batch_size, config.data, self._stop_requested
                )
            if result is None:
                training.state.progress.evaluated_step = None
                self._save_and_stop(accumulator)
            training.state.progress.evaluation_metrics.update(named(part, result.metrics))
            results[part] = result
        return results

    def _stop_requested(self) -> bool:
        """Whether any rank has to stop; every rank calls this before each batch of an evaluation."""
        self.beat(f"evaluation after step {self.training.state.progress.step}")
        return self.consensus.exchange().stop

    def _save(self, accumulator: MetricAccumulator) -> None:
        """Save a checkpoint in the background, on rank 0; only the copy of the arrays is enqueued before the next step."""
        state = self._checkpoint_state(accumulator)
        self._saved_step, self._saved_at = self.training.state.progress.step, time.monotonic()
        if self.writer is not None:
            self.writer.save(state, self.training.state.progress.best_step)

    def _amend(self, accumulator: MetricAccumulator) -> None:
        """Add the metrics of an evaluation to the checkpoint of this step, in the background, on rank 0."""
        state = self._checkpoint_state(accumulator)
        if self.writer is not None:
            self.writer.amend(state, self.training.state.progress.best_step)

    def _checkpoint_state(self, accumulator: MetricAccumulator) -> CheckpointState:
        """The content of a checkpoint apart from the arrays; every rank must call this."""
        self.training.state.progress.interval = accumulator.as_state(self._stops_at_nonfinite)
        return self.training.checkpoint_state()

    def _save_and_stop(self, accumulator: MetricAccumulator) -> NoReturn:
        """Save a checkpoint and raise :class:`Stopped` on all ranks."""
        world, step = self.training.world, self.training.state.progress.step
        self.beat(f"checkpoint of step {step}")
        reasons = _stop_reasons(world.gather(self.stop.reason))
        self._save(accumulator)
        self._wait_for_checkpoint()
        raise agreed(Stopped(f"stopped by {reasons}; step {step} is saved: start the same command again to continue"))

    def _commit(self, accumulator: MetricAccumulator) -> None:
        """Commit an elastic run to memory, on every rank; only the copies are enqueued before the next step."""
        if self.elastic_state is not None:
            self.elastic_state.commit(self.training.state.arrays, self._checkpoint_state(accumulator))

    def _confirm_commit(self) -> None:
        if self.elastic_state is not None:
            self.elastic_state.confirm(self.training.state.progress.step)

    def _commit_and_regroup(self, accumulator: MetricAccumulator) -> NoReturn:
        """Commit, so that no step is lost, and raise :class:`HostsChanged` on all ranks."""
        assert self.elastic_state is not None
        self.elastic_state.commit_and_wait(
            self.training.state.arrays, self._checkpoint_state(accumulator), self.training.world
        )
        raise HostsChanged

    def _wait_for_checkpoint(self) -> None:
        """Wait until rank 0 has written the newest checkpoint; raises on all ranks if that failed."""

        def written() -> None:
            if self.writer is not None:
                self.writer.wait()
                failure = self.writer.failure
                if isinstance(failure, (OSError, RunError)):
                    raise RunError(f"the newest checkpoint could not be written: {failure}")
                if failure is not None:
                    raise failure

        self.training.world.together(written)

    def _is_checkpoint_late(self) -> bool:
        """Whether the newest checkpoint is older than ``checkpoint.every_minutes``, by the clock of rank 0."""
        minutes = self.training.config.checkpoint.every_minutes
        return self.writer is not None and minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _training_failed(self) -> bool:
        """Whether the newest checkpoint failed because of the training: not finite, or an earlier operation failed.

        The training continues on a full disk.
        """
        failure = self.writer.failure if self.writer is not None else None
        return failure is not None and not isinstance(failure, OSError)

    def _compare_ranks(self) -> None:
        """Raise ``RunError`` on all ranks if their parameters or optimizer states differ in any bit."""
        self.beat(f"comparison after step {self.training.state.progress.step}")
        hashes = "\n".join(f"{name} {sha256}" for name, sha256 in digests(self.training.state.arrays).items())
        advice = "the ranks have drifted apart: a rank's memory or device is at fault; start again from the newest checkpoint"
        self.training.world.require_same(f"its parameters after step {self.training.state.progress.step}", hashes, advice)

    @property
    def _stops_at_nonfinite(self) -> bool:
        return self.training.config.train.nonfinite == "stop"


def _stop_reasons(reasons: list[str | None]) -> str:
    """The reasons by rank, as text: ``SIGTERM on rank 1``, ``run.max_time on all ranks``."""
    ranks_of = {reason: [str(rank) for rank, one in enumerate(reasons) if one == reason] for reason in reasons if reason}
    return " and ".join(
        f"{reason} on all ranks" if len(ranks) == len(reasons) > 1 else f"{reason} on rank {', '.join(ranks)}"
        for reason, ranks in ranks_of.items()
    )
