"""The cost of training together: ``horovodrun -np 2 .venv/bin/python benchmarks/together.py``, with any launcher.

The same processes alternate bare steps with a reduction (*together*) and without (*apart*, as independent processes). So
changes of the machine's speed affect both. Each step is waited for. The results are ratios of speeds: medians of the
turns, with first and last quartile:

- *together / apart*: speed of the ranks, relative to as many independent processes.
- *in step / apart*: the same with a reduction that takes no time: the independent processes only wait for the slowest of them
  after each step. This is the loss by a machine whose speed varies.
- *together / in step*: the cost of the reduction.

VGG-11 with batch normalisation on 32-pixel images, 128 a rank. Further arguments are passed to ``vggdist.train``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from measure import BATCH_SIZE, DATA, MODEL, in_words, machine

from vggdist.config.load import load
from vggdist.environment import variables

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
parser.add_argument("--turns", type=int, default=100, help="default: %(default)s")
parser.add_argument("--steps", type=int, default=1, help="steps of each kind in a turn (default: %(default)s)")
parser.add_argument("--json", type=Path, help="file for all figures")
OPTIONS, FLAGS = parser.parse_known_args()
if OPTIONS.turns < 2 or OPTIONS.steps < 1:
    parser.error("quartiles need two turns at least, and a turn one step")
FLAGS = [*MODEL, *DATA, "--train.batch_size", str(BATCH_SIZE), *FLAGS]
FOUND = machine()  # before a rank is bound to its cores
CONFIG = load("train", FLAGS)
SETTINGS = variables.apply(CONFIG)  # before anything imports MXNet

from vggdist.benchmarking.bare_step import bare_step, step_by_step  # noqa: E402
from vggdist.benchmarking.series import Series, in_turn  # noqa: E402
from vggdist.collectives.world import World, versions  # noqa: E402
from vggdist.training.setup import Training, prepare  # noqa: E402

WARMUP = 8


def main() -> None:
    """Measure on every rank; rank 0 prints, and writes the figures to the file of ``--json``."""
    world = World()
    if world.size == 1:
        sys.exit("there is only one rank; start several: horovodrun -np 2 ...")
    training = prepare(CONFIG, world)
    bare_step(training, WARMUP, lambda phase: None)
    taken = measured(training, OPTIONS.turns, OPTIONS.steps)
    if not world.is_root:
        return
    pairs = (("together", "apart"), ("in step", "apart"), ("together", "in step"))
    ratios = {f"{one} / {other}": taken[other].over(taken[one]) for one, other in pairs}  # of speeds
    found = {**FOUND, "ranks": world.size, "controller": world.controller, **versions()}
    lines = [f"{name:20}{in_quartiles(ratio)}" for name, ratio in ratios.items()]
    print("\n".join([f"{in_words(found)}, n = {OPTIONS.turns}", *lines]), flush=True)
    if OPTIONS.json:
        figures = {"seconds_per_step": taken, "ratios": ratios}
        series = {kind: {name: one.as_json() for name, one in of_kind.items()} for kind, of_kind in figures.items()}
        OPTIONS.json.write_text(json.dumps({"hardware": found, "settings": SETTINGS.values, **series}, indent=2) + "\n")


def measured(training: Training, turns: int, steps: int) -> dict[str, Series]:
    """Seconds of a step in each turn, the same on every rank. Changes of the networks are undone."""
    kept = {name: array.copy() for name, array in training.state.arrays.items()}
    in_step: list[float] = []

    def seconds(world: World) -> list[list[float]]:
        """Seconds of each step on each rank."""
        taken = step_by_step(training, world, steps, lambda phase: None)
        for name, array in training.state.arrays.items():
            array[:] = kept[name]
        by_rank: list[list[float]] = training.world.gather([compute + reduction for compute, reduction in taken])
        return by_rank

    def apart() -> float:
        taken = seconds(training.world.alone())
        in_step.append(statistics.fmean(map(max, zip(*taken))))
        return mean_of(taken)

    taken = in_turn({"together": lambda: mean_of(seconds(training.world)), "apart": apart}, turns)
    return {**taken, "in step": Series(in_step)}


def mean_of(by_rank: list[list[float]]) -> float:
    """Seconds of a step for all ranks: the mean of the ranks' speeds, as each processes its own samples."""
    return statistics.harmonic_mean([statistics.fmean(steps) for steps in by_rank])


def in_quartiles(ratio: Series) -> str:
    """``0.970 (0.951 to 0.983)``: the median, first and last quartile."""
    first, middle, last = statistics.quantiles(ratio.values, n=4, method="inclusive")
    return f"{middle:.3f} ({first:.3f} to {last:.3f})"


if __name__ == "__main__":
    main()
