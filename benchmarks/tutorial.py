"""Learning beside a tutorial: ``.venv/bin/python benchmarks/tutorial.py --root /usr/share/datasets/fashion-mnist``.

VGG-11 with a quarter of the channels on Fashion-MNIST. Ours runs a configuration with ``horovodrun -np 2``;
``peers/gluon_tutorial.py`` trains as the tutorial does, in one process with a thread for each core (MXNet's default is one
for every two cores), with the same image size, global batch, learning rate, network and number of steps. They take turns, in
alternating order; each turn has another seed. The table has the mean loss of each interval, top-1 on the test set after the
last step, and images per second without the first interval: median, smallest and largest of the turns. Further arguments are
passed to ``vggdist.train``, for instance ``--data.image_size 96``. Exit code 1: a program failed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from measure import Program, ProgramFailed, images_per_second, in_words, machine, reported
from run import HERE, MPI, RANKS, printed, threads

from vggdist.benchmarking.series import Series, in_turn
from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.config.schema import Config
from vggdist.models.layers import describe

CONFIG = HERE.parent / "configs" / "seeds" / "vgg11_quarter_fashion_224.yaml"
OURS, THEIRS = "ours", "tutorial"
START_S, STEP_S = 900, 60  # deadline of a program: a start with an evaluation of the test set, and a step


def main() -> None:
    """Measure, print a table, and write the figures to the file of ``--json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, required=True, help="folder with the gzipped idx files of Fashion-MNIST")
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"default: {CONFIG.relative_to(HERE.parent)}")
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=20, help="steps of an interval (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options, further = parser.parse_known_args()
    if options.every < 1 or options.steps % options.every or options.steps < 2 * options.every:
        parser.error("--steps must be a multiple of --every, and at least twice as many")
    flags = ["--config", str(options.config.absolute()), "--data.root", str(options.root.absolute()), *further]
    found = machine()
    try:
        config = load("train", flags)
    except RequestError as error:
        parser.error(str(error))
    try:
        speeds, results = measured(config, flags, options.steps, options.every, options.repeats)
    except ProgramFailed as failure:
        sys.exit(str(failure))
    print(f"{in_words(found)}, n = {options.repeats}\n{table(speeds, results)}")
    if options.json:
        figures = {
            name: {"images/s": speeds[name].as_json(), **{row: series.as_json() for row, series in results[name].items()}}
            for name in speeds
        }
        report = {
            "machine": found,
            "config": options.config.name,
            "flags": further,
            "steps": options.steps,
            "every": options.every,
            "figures": figures,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def measured(
    config: Config, flags: Sequence[str], steps: int, every: int, repeats: int
) -> tuple[dict[str, Series], dict[str, dict[str, Series]]]:
    """Images per second of each program, and its losses and accuracy by the name of the table's row, over the turns.

    Args:
        flags: of ``vggdist.train``, which result in ``config``.

    Raises:
        ProgramFailed: the first one ends the measurement.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    turns: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}

    def speed(name: str) -> float:
        length = {"steps": steps, "every": every, "seed": len(turns[name])}
        program = ours(config, flags, turns[OURS], **length) if name == OURS else theirs(config, turns[THEIRS], **length)
        return images_per_second(name, program, deadline=START_S + STEP_S * steps)

    speeds = in_turn({OURS: lambda: speed(OURS), THEIRS: lambda: speed(THEIRS)}, repeats)
    return speeds, {name: {row: Series([turn[row] for turn in found]) for row in found[0]} for name, found in turns.items()}


def ours(config: Config, flags: Sequence[str], turns: list[dict[str, float]], steps: int, every: int, seed: int) -> Program:
    """Two ranks of ``vggdist.train``; its rows are added to ``turns``. Checkpoint and evaluation are at the end only."""

    def speed(folder: Path) -> float:
        (path,) = folder.glob("runs/*/metrics.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
        if [*losses] != [*range(every, steps + 1, every)]:
            raise ValueError(f"it reported the loss at steps {', '.join(map(str, losses))}")
        turns.append(rows([*losses.values()], every, lines[-1]["eval/top1(%)"]))
        return reported(folder)

    length = ("--train.steps", steps, "--run.log_every", every, "--run.seed", seed)
    at_end = ("--evaluation.every_epochs", 0, "--evaluation.training_set", "false", "--checkpoint.every_epochs", 0)
    settings = (*flags, "--train.global_batch_size", global_batch(config), *length, *at_end)
    return Program((*MPI.split(), str(RANKS), sys.executable, "-m", "vggdist.train", *map(str, settings)), speed)


def theirs(config: Config, turns: list[dict[str, float]], steps: int, every: int, seed: int) -> Program:
    """The tutorial's manner with the same settings; its rows are added to ``turns``."""
    size = config.data.image_size or 28
    layers = describe(config.model, channels=1, image_size=size, num_classes=10)

    def speed(folder: Path) -> float:
        line = printed(folder, layers)
        turns.append(rows(line["losses"], every, line["top1"]))
        return float(line["images_per_s"])

    settings = {
        "--root": config.data.root,
        "--image-size": size,
        "--batch-size": global_batch(config),
        "--learning-rate": config.optimizer.learning_rate,
        "--divisor": config.model.width_divisor,
        "--steps": steps,
        "--every": every,
        "--seed": seed,
    }
    flags = [str(word) for pair in settings.items() for word in pair] + ["--hidden", *map(str, config.model.hidden)]
    return Program((sys.executable, str(HERE / "peers" / "gluon_tutorial.py"), *flags), speed, threads(1))


def rows(losses: Sequence[float], every: int, top1: float) -> dict[str, float]:
    """The losses of the intervals and the final accuracy, by the names of their rows."""
    named = {f"loss {place * every + 1} to {(place + 1) * every}": loss for place, loss in enumerate(losses)}
    return {**named, "top-1, test set (%)": top1}


def global_batch(config: Config) -> int:
    """Images of a step: the tutorial's batch, which the configuration gives as that of one rank."""
    return config.train.global_batch_size or config.train.batch_size


def table(speeds: Mapping[str, Series], results: Mapping[str, Mapping[str, Series]]) -> str:
    """A line for each result, one for the speeds, and one for the time of ours as a multiple of the other's."""
    lines = [("", OURS, THEIRS)]
    lines += [(row, str(mine), str(results[THEIRS][row])) for row, mine in results[OURS].items()]
    lines.append(("images/s", str(speeds[OURS]), str(speeds[THEIRS])))
    lines.append((f"time, {OURS} / {THEIRS}", str(speeds[THEIRS].over(speeds[OURS])), ""))
    return "\n".join(f"{name:<24} {mine:<28} {other}".rstrip() for name, mine, other in lines)


if __name__ == "__main__":
    main()
