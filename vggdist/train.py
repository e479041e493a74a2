"""Train a VGG: ``horovodrun -np 4 python -m vggdist.train --config configs/quickstart.yaml``."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from vggdist.config.duration import parse_duration
from vggdist.config.load import load, requested_run_directory, run_directory
from vggdist.ending import Ending
from vggdist.reporting.console import start_logging
from vggdist.world import knobs, slurm
from vggdist.world.signals import StopRequests
from vggdist.world.topology import from_environment

logger = logging.getLogger("vggdist.train")  # under python -m, __name__ is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit code: 0 finished, 1 failed, 2 the request or its data is wrong, 75 stopped and saved."""
    arguments = sys.argv[1:] if arguments is None else arguments
    settings = knobs.apply(arguments)  # before anything imports MXNet
    ending = Ending(requested_run_directory(arguments))
    return ending.of(lambda: train(arguments, settings, ending))


def train(arguments: Sequence[str], settings: knobs.Settings, ending: Ending) -> dict[str, Any]:
    """Train as the arguments say; returns what ``result.json`` tells."""
    started = time.monotonic()
    if from_environment(os.environ).size == 1 or "--help" in arguments:
        load("train", arguments)  # a wrong request is refused before MXNet's import, which takes seconds
    from vggdist.checkpoints.state import digest
    from vggdist.reporting.report import Report, SilentReport
    from vggdist.training.directory import open_directory
    from vggdist.training.elastic import Memory, survive
    from vggdist.training.setup import prepare
    from vggdist.training.trainer import Trainer
    from vggdist.world.process import World, versions

    world = World()
    config = world.together(lambda: load("train", arguments))
    directory, elastic, limit = run_directory(config), config.run.elastic, config.run.max_time
    stop = StopRequests(world.rank, world.size, started + parse_duration(limit) if limit is not None else None)
    memory = Memory()

    def train_on(world: World) -> dict[str, Any]:
        start = memory.newest(world)
        world.together(lambda: open_directory(directory, config, start is not None) if world.is_root else None)
        start_logging(world.is_root, world.rank, directory / "log.txt" if world.is_root else None)
        watch = ending.watch(world, config.run.timeout, elastic)
        watch.rest()  # reading the data may take long
        if memory.news is not None:
            logger.info("%s; going on with %d rank(s)", memory.news, world.size)
        logger.info("%s: %d rank(s), %s, %s", config.run.name, world.size, world.controller, versions())
        environment = settings.as_json(world.gather)
        logger.info("environment: %s", ", ".join(f"{name} {value}" for name, value in environment.items()))
        if job := slurm.job(os.environ):
            logger.info("SLURM: %s", ", ".join(f"{name} {value}" for name, value in job.items()))
        setup = prepare(config, world, memory.data, start)
        memory.data = setup.data
        first_step, total_steps = setup.progress.step, setup.calendar.total_steps
        report = Report(directory, first_step, total_steps, bar=world.size == 1) if world.is_root else SilentReport()
        with report, stop:
            progress = Trainer(setup, report, stop, watch.beat, memory if elastic else None).train()
        watch.rest()

        sha256 = digest(setup.arrays)
        world.require_same("its final parameters", sha256)
        seconds = time.monotonic() - started
        logger.info("finished in %.0f s; everything is in %s", seconds, directory)
        return {
            "step": progress.step,
            "metrics": {**progress.training_metrics, **progress.evaluation_metrics},
            "best": {"metric": config.checkpoint.best_metric, "value": progress.best_value, "step": progress.best_step},
            "left_out": setup.data.left_out,
            "seconds": round(seconds, 3),
            "sha256": sha256,
            "world_size": world.size,
            "controller": world.controller,
            "device": str(setup.device),
            "environment": environment,
            "versions": versions(),
        }

    return survive(train_on, world, memory, ending.close_watch) if elastic else train_on(world)


if __name__ == "__main__":
    sys.exit(main())
