"""The training loop: the only place that knows the order of things."""

from __future__ import annotations

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
from vggdist.elastic.generations import RanksChange
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
    """Trains what :func:`~vggdist.training.setup.prepare` has set up, from the step at which it stands to the end."""

    def __init__(
        self,
        training: Training,
        report: Report,
        stop: StopRequests,
        beat: Callable[[str], None] = lambda phase: None,
        memory: ElasticState | None = None,
    ) -> None:
        """Take what a run needs beside its training.

        Args:
            stop: whether this process was told to stop.
            beat: told at each step what is under way, for whoever watches that the ranks move.
            memory: where the training is committed to, in an elastic run.
        """
        self.training = training
        self.report = report
        self.stop = stop
        self.beat = beat
        self.memory = memory
        keep = training.config.checkpoint
        root = training.world.is_root
        self.writer = None
        if root:
            self.writer = CheckpointWriter(training.store, training.state.arrays, keep.keep_last, keep.keep_every, report.sync)
        self.consensus = Consensus(
            training.world,
            training.device,
            stop=lambda: stop.reason is not None,
            trouble=self._is_in_trouble,
            regroup=lambda: memory is not None and memory.hosts_changed,
        )

    def train(self) -> Progress:
        """Make every step that is left, and report, evaluate and save when each is due.

        Raises:
            Stopped: on every rank, when any was told to stop and the checkpoint is on the disk.
            RunError: on every rank, when a loss or a parameter is not finite, the ranks' parameters differ, or the last
                checkpoint could not be written.
            RanksChange: on every rank of an elastic run, when its hosts have changed and everything is committed.
        """
        with self.writer or nullcontext():
            self._train()
            self._require_written()
        return self.training.state.progress

    def _train(self) -> None:
        training, progress = self.training, self.training.state.progress
        batches = self._batches(progress.step)
        accumulator = MetricAccumulator(training.world, progress.step, progress.interval)
        self._make_up_for(accumulator)
        self._commit(accumulator)

        while not training.state.is_over:
            self.beat(f"step {progress.step + 1}")
            batch = accumulator.next_of(batches)
            due = training.state.triggers.due(progress.step + 1)
            learning_rate = training.state.schedule(progress.step)
            num_valid = training.inputs.plan.num_valid(progress.step % training.inputs.plan.steps_per_epoch)
            flags = self.consensus.local_flags()
            outcome = training.step(batch, progress.step, learning_rate, num_valid, flags, measure=due.report)
            accumulator.add(outcome, num_valid)
            progress.step += 1
            self.report.advance(progress.step)
            raised = self.consensus.read(flags)
            self._confirm_commit()

            if due.report:
                self._report(accumulator, learning_rate)
                accumulator = MetricAccumulator(training.world, progress.step)
            if raised.trouble:
                self._require_written()
            if raised.stop:
                self._stop(accumulator)
            if raised.regroup:
                self._regroup(accumulator)
            if due.comparison:
                self._compare_ranks()
            self._evaluate_and_save(due, accumulator)

    def _make_up_for(self, accumulator: MetricAccumulator) -> None:
        """Measure and save what a stop left out at the step at which the run stands, or what is due since it ends here."""
        state, step = self.training.state, self.training.state.progress.step
        due = state.triggers.due(step) if step > 0 else Due()
        if step > 0 and (due.evaluation or state.is_over) and not self.training.is_measured:
            self._evaluate_and_save(replace(due, evaluation=True), accumulator)

    def _evaluate_and_save(self, due: Due, accumulator: MetricAccumulator) -> None:
        if due.checkpoint:
            self._save(accumulator)  # before the evaluation, which may take long, or fail
        improved = due.evaluation and self._evaluate(accumulator)
        if due.checkpoint and due.evaluation:
            self._amend(accumulator)
        elif improved or self.training.state.is_over:
            self._save(accumulator)
        if due.report:
            self._commit(accumulator)

    def _batches(self, first_step: int) -> Iterator[Batch]:
        """This rank's batches from a global step on, prepared ahead by threads."""
        data = self.training.config.data
        return prefetch(self._batch_tasks(first_step), data.threads, data.prefetch, self.training.inputs.training_view.release)

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
        # The ranks agree on a stop within two steps, and saving it takes as long as saving did before.
        self.stop.reserve = 3 * metrics["time/step(ms)"] / 1000 + 2 * (self.writer.seconds if self.writer else 0)

    def _evaluate(self, accumulator: MetricAccumulator) -> bool:
        """Measure what is due; returns whether the metric by which the best checkpoint is chosen improved."""
        training, progress = self.training, self.training.state.progress
        found = self._measure(training.inputs.evaluation_views, accumulator)
        progress.evaluated_step = progress.step
        improved = progress.note_best(training.inputs.chosen_by, training.config.checkpoint.best_metric)
        progress.forget(training.inputs.final_views)
        if is_last := training.state.is_over:
            found |= self._measure(training.inputs.final_views, accumulator)
        epoch = training.state.triggers.epoch(progress.step)
        for part, one in found.items():
            self.report.evaluation(progress.step, epoch, part, named(part, one.metrics), one.confusion)
        self.report.best(progress.step, training.config.checkpoint.best_metric, progress.best_value)
        if is_last:
            self.report.mistakes(progress.step, found["eval"].mistakes.of_all_ranks(training.world, training.model.spec))
        return improved

    def _measure(self, views: Mapping[str, EvaluationView], accumulator: MetricAccumulator) -> dict[str, Evaluation]:
        training, config, found = self.training, self.training.config, {}
        for part, view in views.items():
            one = evaluate(training.model, view, training.world, config.evaluation.batch_size, config.data, self._stopped)
            if one is None:
                training.state.progress.evaluated_step = None
                self._stop(accumulator)
            training.state.progress.evaluation_metrics.update(named(part, one.metrics))
            found[part] = one
        return found

    def _stopped(self) -> bool:
        """Asked before each batch of an evaluation, by every rank."""
        self.beat(f"evaluation after step {self.training.state.progress.step}")
        return self.consensus.exchange().stop

    def _save(self, accumulator: MetricAccumulator) -> None:
        """Hand a checkpoint to rank 0's writer; only the copy of the arrays is ordered before the next step."""
        state = self._state(accumulator)
        if self.writer is not None:
            self.writer.save(state, self.training.state.progress.best_step)

    def _amend(self, accumulator: MetricAccumulator) -> None:
        """Hand rank 0's writer what an evaluation has added to the checkpoint of this step."""
        state = self._state(accumulator)
        if self.writer is not None:
            self.writer.amend(state, self.training.state.progress.best_step)

    def _state(self, accumulator: MetricAccumulator) -> CheckpointState:
        """What a checkpoint holds beside the arrays; every rank must call this."""
        self.training.state.progress.interval = accumulator.as_state(self._stops_at_nonfinite)
        return self.training.checkpoint_state()

    def _stop(self, accumulator: MetricAccumulator) -> NoReturn:
        """Save, and leave on all ranks."""
        world, step = self.training.world, self.training.state.progress.step
        self.beat(f"checkpoint of step {step}")
        reasons = _who_stopped(world.gather(self.stop.reason))
        self._save(accumulator)
        self._require_written()
        raise agreed(Stopped(f"stopped by {reasons}; step {step} is saved: start the same command again to continue"))

    def _commit(self, accumulator: MetricAccumulator) -> None:
        """Keep this moment in memory, on every rank; only the copies are ordered before the next step."""
        if self.memory is not None:
            self.memory.commit(self.training.state.arrays, self._state(accumulator))

    def _confirm_commit(self) -> None:
        if self.memory is not None:
            self.memory.confirm(self.training.state.progress.step)

    def _regroup(self, accumulator: MetricAccumulator) -> NoReturn:
        """Commit, and leave on all ranks, so that no step is lost."""
        assert self.memory is not None
        self.memory.commit_and_wait(self.training.state.arrays, self._state(accumulator), self.training.world)
        raise RanksChange

    def _require_written(self) -> None:
        """Wait for the newest checkpoint, and tell all ranks if it could not be written."""

        def written() -> None:
            if self.writer is not None:
                self.writer.wait()
                failure = self.writer.failure
                if isinstance(failure, (OSError, RunError)):
                    raise RunError(f"the newest checkpoint could not be written: {failure}")
                if failure is not None:
                    raise failure

        self.training.world.together(written)

    def _is_in_trouble(self) -> bool:
        """Whether a checkpoint failed for the network's sake: it is not finite, or an operation before it failed.

        A disk that is full is no trouble: the training goes on.
        """
        failure = self.writer.failure if self.writer is not None else None
        return failure is not None and not isinstance(failure, OSError)

    def _compare_ranks(self) -> None:
        """End the run if the ranks' networks are not the same bit for bit."""
        self.beat(f"comparison after step {self.training.state.progress.step}")
        told = "\n".join(f"{name} {sha256}" for name, sha256 in digests(self.training.state.arrays).items())
        advice = "the ranks have drifted apart: a rank's memory or device is at fault; start again from the newest checkpoint"
        self.training.world.require_same(f"its parameters after step {self.training.state.progress.step}", told, advice)

    @property
    def _stops_at_nonfinite(self) -> bool:
        return self.training.config.train.nonfinite == "stop"


def _who_stopped(reasons: list[str | None]) -> str:
    """The reasons of the ranks that have one: ``SIGTERM on rank 1``, ``run.max_time on all ranks``."""
    ranks = {reason: [str(rank) for rank, one in enumerate(reasons) if one == reason] for reason in reasons if reason}
    return " and ".join(
        f"{reason} on all ranks" if len(who) == len(reasons) > 1 else f"{reason} on rank {', '.join(who)}"
        for reason, who in ranks.items()
    )
