"""One training, from its folder to its result, on whatever ranks there are."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from vggdist.checkpoints.state import digest
from vggdist.config.load import run_directory
from vggdist.config.schema import Config
from vggdist.reporting.console import start_logging
from vggdist.reporting.report import Report, SilentReport
from vggdist.training.directory import open_directory
from vggdist.training.elastic import Memory
from vggdist.training.setup import Setup, prepare
from vggdist.training.trainer import Trainer
from vggdist.world import slurm
from vggdist.world.knobs import Settings
from vggdist.world.process import World, versions
from vggdist.world.signals import StopRequests
from vggdist.world.watch import Watch

logger = logging.getLogger(__name__)


class Run:
    """A training that was asked for, and what it keeps while its ranks change."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        stop: StopRequests,
        watch: Callable[[World, float, bool], Watch],
        started: float,
    ) -> None:
        """Take what does not depend on the ranks.

        Args:
            settings: of the environment, for the log and the result.
            watch: starts to watch the ranks of a world; the other arguments are ``run.timeout`` and ``run.elastic``.
            started: the beginning, in seconds of ``time.monotonic``.
        """
        self.config, self.memory = config, Memory()
        self._directory = run_directory(config)
        self._settings, self._stop, self._watch, self._started = settings, stop, watch, started

    def on(self, world: World) -> dict[str, Any]:
        """Train to the end on these ranks, from where the memory or the folder stands; returns what ``result.json`` tells.

        Raises:
            As :func:`~vggdist.training.setup.prepare` and :meth:`~vggdist.training.trainer.Trainer.train`.
        """
        config, directory, memory = self.config, self._directory, self.memory
        start = memory.newest(world)
        world.together(lambda: open_directory(directory, config, start is not None) if world.is_root else None)
        start_logging(world.is_root, world.rank, directory / "log.txt" if world.is_root else None)
        watch = self._watch(world, config.run.timeout, config.run.elastic)
        watch.rest()  # reading the data may take long
        environment = self._settings.as_json(world.gather)
        self._introduce(world, environment)
        setup = prepare(config, world, memory.data, start)
        memory.data = setup.data
        first_step, total_steps = setup.progress.step, setup.calendar.total_steps
        report = world.together(
            lambda: Report(directory, first_step, total_steps, bar=world.size == 1) if world.is_root else SilentReport()
        )
        with report, self._stop:
            Trainer(setup, report, self._stop, watch.beat, memory if config.run.elastic else None).train()
        watch.rest()
        return self._result(setup) | {"environment": environment, "lost_records": report.lost}

    def _introduce(self, world: World, environment: dict[str, Any]) -> None:
        """Log on what this run is made."""
        if self.memory.news is not None:
            logger.info("%s; going on with %d rank(s)", self.memory.news, world.size)
        used = ", ".join(f"{name} {version}" for name, version in versions().items())
        logger.info("%s: %d rank(s), %s, %s", self.config.run.name, world.size, world.controller, used)
        logger.info("environment: %s", ", ".join(f"{name} {value}" for name, value in environment.items()))
        if job := slurm.job(os.environ):
            logger.info("SLURM: %s", ", ".join(f"{name} {value}" for name, value in job.items()))

    def _result(self, setup: Setup) -> dict[str, Any]:
        """What was reached; every rank must call this."""
        world, progress = setup.world, setup.progress
        sha256 = digest(setup.arrays)
        world.require_same("its final parameters", sha256)
        seconds = time.monotonic() - self._started
        logger.info("finished in %.0f s; everything is in %s", seconds, self._directory)
        best_metric = self.config.checkpoint.best_metric
        return {
            "step": progress.step,
            "metrics": {**progress.training_metrics, **progress.evaluation_metrics},
            "best": {"metric": best_metric, "value": progress.best_value, "step": progress.best_step},
            "left_out": setup.data.left_out,
            "seconds": round(seconds, 3),
            "sha256": sha256,
            "world_size": world.size,
            "controller": world.controller,
            "device": str(setup.device),
            "versions": versions(),
        }
