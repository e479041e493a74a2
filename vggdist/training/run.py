"""One training, from its folder to its result, on whatever ranks there are."""

from __future__ import annotations

import logging
import os
import time
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
    """A training that was asked for, and what it keeps while its ranks change."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        stop: StopRequests,
        handler: ExitHandler,
        started: float,
        on_report: OnReport | None = None,
    ) -> None:
        """Take what does not depend on the ranks.

        Args:
            settings: of the environment, for the log and the result.
            stop: requests to stop; the deadline of ``run.max_time`` is set there.
            started: the beginning, in seconds of ``time.monotonic``.
            on_report: called on rank 0 with step, epoch and metrics of each report and evaluation.
        """
        self._on_report = on_report
        self.config, self.memory = config, ElasticState()
        self._directory = RunDirectory(run_directory(config))
        self._settings, self._stop, self._handler, self._started = settings, stop, handler, started
        handler.release = self._directory.release
        if config.run.max_time is not None:
            stop.deadline = started + parse_duration(config.run.max_time)

    def on(self, world: World) -> dict[str, Any]:
        """Train to the end on these ranks, from where the memory or the folder stands; returns what ``result.json`` holds.

        Raises:
            As :class:`~vggdist.training.run_directory.RunDirectory`, :func:`~vggdist.training.setup.prepare` and
            :meth:`~vggdist.training.trainer.Trainer.train`.
        """
        config, memory = self.config, self.memory
        start = memory.newest(world)
        if world.rank != self._handler.rank:  # the ranks have changed
            start_logging(world.rank)
        watch = self._handler.watch(world, config.run.timeout, config.run.elastic)
        watch.pause()  # reading the data may take long
        environment = self._settings.as_json(world.gather)
        with self._directory as directory:
            world.together(lambda: directory.hold(config, start is not None) if world.is_root else None)
            self._introduce(world, environment)
            training = prepare(config, world, memory.data, start)
            result = ResultFile(directory.path / "result.json", world.gather(this_job())[0])
            is_new = world.together(lambda: self._open(result, start is not None) if world.is_root else False)
        self._handler.result = result
        memory.data = training.inputs.data
        state = training.state
        if was_finished := training.is_finished:
            logger.info("already finished at step %d%s", state.progress.step, how_to_go_on(state))
        report = world.together(lambda: self._report(training, is_new) if world.is_root else Report())
        with report:
            self._stop.begin_training()
            Trainer(training, report, self._stop, watch.beat, memory if config.run.elastic else None).train()
        watch.pause()
        reached = self._result(training)
        if not was_finished:
            self._conclude(state)
        return reached | {"environment": environment, "lost_records": report.lost}

    def _open(self, result: ResultFile, continues: bool) -> bool:
        """Everything is checked: from now on this job's log, configuration and result are those of the run.

        Returns:
            Whether the configuration is another than the folder had.
        """
        if self._directory.is_open:
            return False
        is_new = self._directory.open(self.config, continues)
        open_log(self._directory.path / "log.txt")
        result.begin()
        return is_new

    def _report(self, training: Training, is_new: bool) -> Report:
        """The record of the run, on rank 0."""
        step, total = training.state.progress.step, training.state.triggers.total_steps
        names, alone = training.model.spec.class_names, training.world.size == 1
        report = RunReport(self._directory.path, step, total, names, bar=alone, on_report=self._on_report)
        if is_new:
            compared = hyper_parameters(self.config, training.inputs.plan.global_batch_size, training.world.size)
            report.introduce(as_yaml(self.config), compared)
        return report

    def _introduce(self, world: World, environment: dict[str, Any]) -> None:
        """Log on what this run is made."""
        if self.memory.change is not None:
            logger.info("%s; going on with %d rank(s)", self.memory.change, world.size)
        used = ", ".join(f"{name} {version}" for name, version in versions().items())
        logger.info("%s: %d rank(s), %s, %s", self.config.run.name, world.size, world.controller, used)
        logger.info("environment: %s", ", ".join(f"{name} {value}" for name, value in environment.items()))
        if job := slurm.job(os.environ):
            logger.info("SLURM: %s", ", ".join(f"{name} {value}" for name, value in job.items()))

    def _conclude(self, state: TrainingState) -> None:
        """Log how this job has come to the end of the run."""
        if state.is_out_of_patience:
            logger.info("ended at step %d of %d%s", state.progress.step, state.triggers.total_steps, how_to_go_on(state))
        seconds = time.monotonic() - self._started
        logger.info("finished in %.0f s; everything is in %s", seconds, self._directory.path)

    def _result(self, training: Training) -> dict[str, Any]:
        """What was reached; every rank must call this."""
        world, progress = training.world, training.state.progress
        sha256 = digest(training.state.arrays)
        world.require_same("its final parameters", sha256)
        best_metric = self.config.checkpoint.best_metric
        return {
            "step": progress.step,
            "metrics": {**progress.training_metrics, **progress.evaluation_metrics},
            "best": {
                "part": training.inputs.chosen_by,
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


def how_to_go_on(state: TrainingState) -> str:
    """Which setting would make a run that is over go on; with the reason where it ended before its last step."""
    if state.is_out_of_patience:
        best = state.progress.best_step or 0
        return f": no evaluation since step {best} was better; raise train.patience to train longer"
    key = "train.epochs" if state.triggers.config.train.steps is None else "train.steps"
    return f"; raise {key} to train longer"
