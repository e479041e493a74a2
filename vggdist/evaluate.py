"""Measure the newest checkpoint of a run: ``python -m vggdist.evaluate --config runs/quickstart/config.yaml``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vggdist.config.errors import RequestError, agreed, before_start
from vggdist.config.load import load, run_directory
from vggdist.exit_handling import ExitHandler
from vggdist.reporting.console import start_logging
from vggdist.reporting.result import write_json
from vggdist.world import knobs, meeting

logger = logging.getLogger("vggdist.evaluate")  # under python -m, __name__ is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, write ``evaluation.json`` into the run's folder, and return the exit code, as training does."""
    handler = ExitHandler()
    return handler.run(lambda: evaluate(sys.argv[1:] if arguments is None else arguments, handler))


def evaluate(arguments: Sequence[str], handler: ExitHandler) -> dict[str, Any]:
    """Evaluate as the arguments ask; returns what ``evaluation.json`` holds."""
    start_logging(handler.rank)
    with before_start():
        config = load("evaluate", arguments)
        knobs.apply(config)  # before anything imports MXNet
    meeting.arrive()
    from vggdist.training.evaluation import evaluate as measure
    from vggdist.training.progress import metric_name
    from vggdist.training.setup import prepare
    from vggdist.world.process import World

    world = World()
    config = replace(config, run=replace(config.run, resume="auto"))  # a run that was started anew has checkpoints, too
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
    result = {"step": setup.progress.step, "metrics": metrics, "left_out": setup.data.left_out}
    world.together(lambda: write_json(run_directory(config) / "evaluation.json", result) if world.is_root else None)
    return result


if __name__ == "__main__":
    sys.exit(main())
