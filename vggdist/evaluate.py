"""Evaluate a trained network: ``python -m vggdist.evaluate runs/quickstart``, also under a launcher."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggdist.collectives import initialization
from vggdist.config.command_line import SettingsParser
from vggdist.config.errors import before_start
from vggdist.config.inference import EvaluateConfig, add_run, place, settings
from vggdist.environment import variables
from vggdist.exit_handling import ExitHandler
from vggdist.reporting.console import start_logging
from vggdist.reporting.result import write_json, write_whole

_DESCRIPTION = (
    "Evaluates the network of a run, or one checkpoint, on the images of its run or others with the same classes. It writes "
    "evaluation.json, confusion.png and predictions.csv: each image with true and predicted class, worst first."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, and return the exit code, as training does."""
    handler = ExitHandler()
    return handler.run(lambda: evaluate(sys.argv[1:] if arguments is None else arguments, handler))


def evaluate(arguments: Sequence[str], handler: ExitHandler) -> dict[str, Any]:
    """Evaluate with the given arguments; returns the content of ``evaluation.json``."""
    start_logging(handler.rank)
    with before_start():
        options = _parser().parse(arguments)
        where = place(options.run, options.checkpoint)
        config = settings(where, options.settings, EvaluateConfig)
        variables.apply(config)  # before anything imports MXNet
    initialization.announce()
    from vggdist.collectives.world import World
    from vggdist.inference import evaluation
    from vggdist.reporting.evaluation_images import confusion_matrix

    world = World()
    watch = handler.watch(world, config.run.timeout)
    watch.pause()  # reading the data may take long
    keys = {key for key, _ in options.settings}
    evaluated = evaluation.evaluate(config, where, bool(keys & {"data.name", "data.root"}), world, watch)
    folder = Path(options.output or (where.run or Path()) / "evaluation")

    def write() -> None:
        write_json(folder / "evaluation.json", evaluated.result)
        write_whole(folder / "predictions.csv", evaluation.as_csv(evaluated.source, evaluated.predictions))
        title = f"{config.data.part} set after step {evaluated.result['checkpoint']['step']}"
        confusion_matrix(evaluated.result["confusion"], evaluated.source.class_names, title).save(folder / "confusion.png")

    world.together(write, acts=world.is_root)
    if world.is_root:
        print(evaluation.table(evaluated.result), f"everything is in {folder}", sep="\n", flush=True)
    return evaluated.result


def _parser() -> SettingsParser:
    parser = SettingsParser("evaluate", EvaluateConfig, "RUN", takes_file=False, description=_DESCRIPTION)
    add_run(parser)
    parser.add_argument("--output", metavar="DIR", help="output folder (default: RUN/evaluation)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
