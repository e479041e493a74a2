"""Train a VGG: ``horovodrun -np 4 python -m vggdist.train --config configs/quickstart.yaml``."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggdist.config.errors import RequestError
from vggdist.config.load import as_yaml, load, requested_run_directory, run_directory
from vggdist.config.schema import Config
from vggdist.ending import end
from vggdist.reporting.console import start_logging
from vggdist.world import knobs
from vggdist.world.topology import from_environment

if TYPE_CHECKING:
    from vggdist.world.process import World

logger = logging.getLogger("vggdist.train")  # under python -m, __name__ is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit code: 0 finished, 1 failed, 2 the request or its data is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    settings = knobs.apply()  # before anything imports MXNet
    return end(lambda: train(arguments, settings), requested_run_directory(arguments))


def train(arguments: Sequence[str], settings: dict[str, str]) -> dict[str, Any]:
    """Train as the arguments say; returns what ``result.json`` tells."""
    started = time.perf_counter()
    if from_environment(os.environ).size == 1 or "--help" in arguments:
        load("train", arguments)  # a wrong request is refused before MXNet's import, which takes seconds
    from vggdist.checkpoints.state import digest
    from vggdist.reporting.report import Report, SilentReport
    from vggdist.training.setup import prepare
    from vggdist.training.trainer import Trainer
    from vggdist.world.process import World, versions

    world = World()
    config = world.together(lambda: load("train", arguments))
    directory = run_directory(config)
    world.together(lambda: open_directory(config, directory, world))
    logger.info("%s: %d rank(s), %s, %s", config.run.name, world.size, world.controller, versions())
    setup = prepare(config, world)
    first_step, total_steps = setup.progress.step, setup.calendar.total_steps
    report = Report(directory, first_step, total_steps) if world.is_root else SilentReport()
    with report:
        progress = Trainer(setup, report).train()

    sha256 = digest(setup.arrays)
    world.require_same("its final parameters", sha256)
    seconds = time.perf_counter() - started
    logger.info("finished in %.0f s; everything is in %s", seconds, directory)
    return {
        "step": progress.step,
        "metrics": {**progress.training_metrics, **progress.evaluation_metrics},
        "best": {"metric": config.checkpoint.best_metric, "value": progress.best_value, "step": progress.best_step},
        "seconds": round(seconds, 3),
        "sha256": sha256,
        "world_size": world.size,
        "controller": world.controller,
        "device": str(setup.device),
        "environment": settings,
        "versions": versions(),
    }


def open_directory(config: Config, directory: Path, world: World) -> None:
    """Make the run's folder on rank 0, with its configuration and log.

    Raises:
        RequestError: when an earlier run would be overwritten without being told to.
    """
    if world.is_root:
        if config.run.resume == "never" and (directory / "checkpoints").exists():
            if not config.run.overwrite:
                raise RequestError(
                    f"{directory} holds a run with checkpoints; choose another --run.name, continue it with "
                    "--run.resume auto, or remove it with --run.overwrite true"
                )
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.yaml").write_text(as_yaml(config))
    start_logging(world.is_root, world.rank, directory / "log.txt" if world.is_root else None)


if __name__ == "__main__":
    sys.exit(main())
