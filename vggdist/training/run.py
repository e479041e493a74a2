"""A training run, from its folder to its result, on any ranks."""

from __future__ import annotations

import logging
import os
import time
from functools import partial
from typing import Any

from vggdist.checkpoints.state import digest
from vggdist.collectives.world import World, versions
from vggdist.config.duration import parse_duration
from vggdist.config.load import as_yaml, run_directory
from vggdist.config.schema import Config
from vggdist.elastic.state import ElasticState
from vggdist.environment.variables import Settings
from vggdist.exit_handling import ExitHandler
from vggdist.launcher import slurm
from vggdist.processes.job import this_job
from vggdist.processes.signals import StopRequests
from vggdist.reporting.console import open_log, start_logging
from vggdist.reporting.hyper_parameters import hyper_parameters
from vggdist.reporting.report import OnReport, Report, RunReport
from vggdist.reporting.result import ResultFile
from vggdist.training.run_directory import RunDirectory
from vggdist.training.setup import Training, TrainingState, prepare
from vggdist.training.trainer import Trainer

logger = logging.getLogger(__name__)


class Run:
    """A run: its configuration, its folder, and what survives a change of the ranks."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        stop: StopRequests,
        handler: ExitHandler,
        started: float,
        on_report: OnReport | None = None,
    ) -> None:
        """Prepare what does not depend on the ranks.

        Args:
            settings: of the environment, for the log and the result.
            stop: requests to stop; the deadline of ``run.max_time`` is set there.
            started: start of the command, in seconds of ``time.monotonic``.
            on_report: called on rank 0 with step, epoch and metrics, for each report and evaluation.
        """
        self._on_report = on_report
        self.config, self.elastic_state = config, ElasticState()
        self._directory = RunDirectory(run_directory(config))
        self._settings, self._stop, self._handler, self._started = settings, stop, handler, started
        handler.release = self._directory.release
        if config.run.max_time is not None:
            stop.deadline = started + parse_duration(config.run.max_time)

    def on(self, world: World) -> dict[str, Any]:
        """Train to the end on these ranks, from the newest commit or checkpoint; returns the content of ``result.json``.

        Raises:
            As :class:`~vggdist.training.run_directory.RunDirectory`, :func:`~vggdist.training.setup.prepare` and
            :meth:`~vggdist.training.trainer.Trainer.train`.
        """
        config, elastic_state = self.config, self.elastic_state
        start = elastic_state.newest(world)
        if world.rank != self._handler.rank:  # the ranks have changed
            start_logging(world.rank)
        watch = self._handler.watch(world, config.run.timeout, config.run.elastic)
        watch.pause()  # reading the data may take long
        environment = self._settings.as_json(world.gather)
        with self._directory as directory:
            world.together(lambda: directory.lock(config, start is not None) if world.is_root else None)
            self._log_setup(world, environment)
            training = prepare(config, world, elastic_state.data, start)
            result = ResultFile(directory.path / "result.json", world.gather(this_job())[0])
            is_new = world.together(lambda: self._open(result, start is not None) if world.is_root else False)
        self._handler.result = result
        elastic_state.data = training.inputs.data
        state = training.state
        if was_finished := training.is_finished:
            logger.info("already finished at step %d%s", state.progress.step, how_to_continue(state))
        report = world.together(lambda: self._report(training, is_new) if world.is_root else Report())
        with report:
            self._stop.begin_training()
            Trainer(training, report, self._stop, watch.beat, elastic_state if config.run.elastic else None).train()
        watch.pause()
        outcome = self._result(training)
        if not was_finished:
            self._log_end(state)
        return outcome | {"environment": environment, "lost_records": report.lost}

    def _open(self, result: ResultFile, continues: bool) -> bool:
        """Write this job's configuration, log and result to the folder, after everything was checked.

        Returns:
            Whether the folder had another configuration, or none.
        """
        if self._directory.is_open:
            return False
        is_new = self._directory.open(self.config, continues)
        open_log(self._directory.path / "log.txt")
        result.begin()
        return is_new

    def _report(self, training: Training, is_new: bool) -> Report:
        """Open the report, on rank 0."""
        step, total = training.state.progress.step, training.state.triggers.total_steps
        names, alone = training.model.spec.class_names, training.world.size == 1
        work = partial(training.state.triggers.work, image_size=training.model.spec.image_size)
        report = RunReport(self._directory.path, step, total, names, bar=alone, on_report=self._on_report, work=work)
        if is_new:
            values = hyper_parameters(self.config, training.inputs.plan.global_batch_size, training.world.size)
            report.record_configuration(as_yaml(self.config), values)
        return report

    def _log_setup(self, world: World, environment: dict[str, Any]) -> None:
        """Log ranks, versions, environment and SLURM job."""
        if self.elastic_state.change is not None:
            logger.info("%s; continuing with %d rank(s)", self.elastic_state.change, world.size)
        used = ", ".join(f"{name} {version}" for name, version in versions().items())
        logger.info("%s: %d rank(s), %s, %s", self.config.run.name, world.size, world.controller, used)
        logger.info("environment: %s", ", ".join(f"{name} {value}" for name, value in environment.items()))
        if job := slurm.job(os.environ):
            logger.info("SLURM: %s", ", ".join(f"{name} {value}" for name, value in job.items()))

    def _log_end(self, state: TrainingState) -> None:
        """Log that this job has finished the run."""
        if state.is_out_of_patience:
            logger.info("ended at step %d of %d%s", state.progress.step, state.triggers.total_steps, how_to_continue(state))
        seconds = time.monotonic() - self._started
        logger.info("finished in %.0f s; everything is in %s", seconds, self._directory.path)

    def _result(self, training: Training) -> dict[str, Any]:
        """Metrics and identity of the finished run; every rank must call this."""
        world, progress = training.world, training.state.progress
        sha256 = digest(training.state.arrays)
        world.require_same("its final parameters", sha256)
        best_metric = self.config.checkpoint.best_metric
        return {
            "step": progress.step,
            "metrics": {**progress.training_metrics, **progress.evaluation_metrics},
            "best": {
                "part": training.inputs.selection_part,
                "metric": best_metric,
                "value": progress.best_value,
                "step": progress.best_step,
            },
            "left_out": training.inputs.data.left_out,
            "seconds": round(time.monotonic() - self._started, 3),
            "sha256": sha256,
            "world_size": world.size,
            "controller": world.controller,
            "device": str(training.device),
            "versions": versions(),
        }


def how_to_continue(state: TrainingState) -> str:
    """Which setting makes a finished run continue, and why it ended if that was before its last step."""
    if state.is_out_of_patience:
        best = state.progress.best_step or 0
        return f": no evaluation since step {best} was better; raise train.patience to train longer"
    key = "train.epochs" if state.triggers.config.train.steps is None else "train.steps"
    return f"; raise {key} to train longer"
