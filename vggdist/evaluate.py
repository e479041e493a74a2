"""Measure the newest checkpoint of a run: ``python -m vggdist.evaluate --config runs/quickstart/config.yaml``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vggdist.config.errors import RequestError, agreed
from vggdist.config.load import load, requested_run_directory, run_directory
from vggdist.ending import Ending
from vggdist.reporting.console import start_logging
from vggdist.world import knobs, meeting, streams
from vggdist.world.topology import from_environment

logger = logging.getLogger("vggdist.evaluate")  # under python -m, __name__ is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, write ``evaluation.json`` into the run's folder, and return the exit code, as training does."""
    streams.protect()
    arguments = sys.argv[1:] if arguments is None else arguments
    knobs.apply(arguments)  # before anything imports MXNet
    return Ending(requested_run_directory(arguments), "evaluation.json").of(lambda: evaluate(arguments))


def evaluate(arguments: Sequence[str]) -> dict[str, Any]:
    """Evaluate as the arguments say; returns what ``evaluation.json`` tells."""
    if from_environment(os.environ).size == 1 or "--help" in arguments:
        load("evaluate", arguments)  # a wrong request is refused before MXNet's import, which takes seconds
    meeting.arrive()
    from vggdist.training.evaluation import evaluate as measure
    from vggdist.training.progress import metric_name
    from vggdist.training.setup import prepare
    from vggdist.world.process import World

    world = World()
    config = world.together(lambda: load("evaluate", arguments))
    config = replace(config, run=replace(config.run, resume="auto"))  # a run that was started anew has checkpoints, too
    start_logging(world.is_root, world.rank, None)
    setup = prepare(config, world)
    if setup.progress.step == 0:
        raise agreed(RequestError(f"{run_directory(config)} has no checkpoint to evaluate; train it first"))
    metrics: dict[str, float] = {}
    for part, view in setup.evaluation_views.items():
        sums = measure(setup.forward, view, setup.num_classes, world, config, setup.device)
        assert sums is not None  # nothing stops it here
        metrics |= {metric_name(part, name): value for name, value in sums.result().items()}
    for name, value in metrics.items():
        logger.info("%s %.6g", name, value)
    return {"step": setup.progress.step, "metrics": metrics, "left_out": setup.data.left_out}


if __name__ == "__main__":
    sys.exit(main())
