"""What each part of a recipe contributes: ``.venv/bin/python benchmarks/ablation.py --root DIR --runs FOLDER --seeds 0 1 2``.

Trains ``configs/cifar10_fast.yaml`` with half the channels, four epochs and float32, and the same with one change each, with
every seed on two ranks. A finished run is not repeated, and one that Ctrl-C stopped continues when the same command is
started again. ``--json`` names a file with a line for each finished run: a run in it is not repeated either, so an ablation
can continue on another machine; ``--seeds`` without a number trains nothing. The table has all finished runs: for each
change the number of seeds, and accuracy and loss on the test set and the time: the means over the seeds, and their
differences from the recipe with the same seeds, with the standard errors. The time of a run that was continued counts from
there. Exit code 1: a training failed; 75: stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import machine

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "cifar10_fast.yaml"
NARROW = ("--model.widths", "[[16,32],[32,128],[128,128],[128]]", "--train.precision", "float32")
SHORT = ("--train.epochs", "4", "--augment.progressive", "[[2,20],[3,24]]", "--checkpoint.every_epochs", "1")
METRICS = {"top-1 (%)": ("eval/top1(%)", 2), "test loss": ("eval/loss", 3), "time (s)": ("seconds", 0)}
"""Columns of the table: the metric of the runs, and the digits after the point."""
NAG = "--optimizer.name nag --optimizer.weight_decay 0.0005 --optimizer.momentum 0.9 --optimizer.groups []"
NAG += " --model.output_scale 1"  # the recipe's suits the rate of the output layer in optimizer.groups
RECIPE = "recipe"

CHANGES = {
    RECIPE: "",
    "relu": "--model.activation relu",
    "pooling after the activation": "--model.early_pooling false",
    "average head": "--model.head global_average",
    "no whitening": "--model.whitening false",
    "he initialiser": "--model.initializer he",
    "norm momentum 0.9": "--model.norm_momentum 0.9",
    "output scale 1": "--model.output_scale 1",
    "random flips": "--augment.flip true",
    "black borders": "--augment.pad_mode constant",
    "32 pixels from the start": "--augment.progressive []",
    "no groups": "--optimizer.groups []",
    "5 iterations": "--optimizer.muon_iterations 5",
    "nag, rate 0.1": f"{NAG} --optimizer.learning_rate 0.1",
    "nag, rate 0.5": f"{NAG} --optimizer.learning_rate 0.5",
    "batch 500": "--train.global_batch_size 500",
    "batch 2000": "--train.global_batch_size 2000",
}
"""Flags by the name of a change."""


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, required=True, help="CIFAR-10 as train/<class>/*.jpg and test/<class>/*.jpg")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=[*CHANGES], metavar="CHANGE", help="default: all")
    parser.add_argument("--json", type=Path, help="file of finished runs, a line each; new ones are appended")
    options = parser.parse_args()
    finished = read(options.json)
    for seed, change in itertools.product(options.seeds, options.changes):
        name = name_of(change, seed)
        if name not in finished:
            train(change, seed, options.root.absolute(), options.runs.absolute())
            finished[name] = metrics(options.runs, change, seed)
            append(options.json, {"run": name, "flags": CHANGES[change], **machine(), **finished[name]})
    seeds = sorted({int(name.rpartition("-")[2]) for name in finished})
    names = {change: {seed: name_of(change, seed) for seed in seeds} for change in options.changes}
    found = {change: {seed: finished[name] for seed, name in own.items() if name in finished} for change, own in names.items()}
    print(table({change: runs for change, runs in found.items() if runs}))


def read(path: Path | None) -> dict[str, dict[str, float]]:
    """Metrics of the finished runs in a file, by name of the run."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    return {run["run"]: {name: run[name] for name, _ in METRICS.values()} for run in map(json.loads, lines)}


def append(path: Path | None, run: Mapping[str, Any]) -> None:
    """Add a finished run to a file."""
    if path is not None:
        with path.open("a") as file:
            file.write(f"{json.dumps(run)}\n")


def name_of(change: str, seed: int) -> str:
    """Name of a run."""
    return f"{''.join(letter if letter.isalnum() else '_' for letter in change)}-{seed}"


def command(change: str, seed: int, root: Path, runs: Path) -> list[str]:
    """The training with a change."""
    where = ("--data.root", str(root), "--run.directory", str(runs), "--run.name", name_of(change, seed))
    start = ("horovodrun", "--gloo", "-np", "2", sys.executable, "-m", "vggdist.train", "--config", str(CONFIG))
    return [*start, *NARROW, *SHORT, *CHANGES[change].split(), *where, "--run.seed", str(seed)]


def train(change: str, seed: int, root: Path, runs: Path) -> None:
    """Start a run or continue it, unless it is finished; ends this program if the run does not finish."""
    result = runs / name_of(change, seed) / "result.json"
    if result.exists() and json.loads(result.read_text())["state"] == "finished":
        return
    print(f"{change}, seed {seed}", file=sys.stderr, flush=True)
    job = subprocess.Popen(command(change, seed, root, runs), stdout=sys.stderr)
    try:
        code = job.wait()
    except KeyboardInterrupt:
        job.wait()  # a terminal sends Ctrl-C to the ranks as well, which save a checkpoint
        sys.exit(75)
    if code != 0:
        sys.exit(75 if result.exists() and json.loads(result.read_text())["exit_code"] == 75 else 1)


def metrics(runs: Path, change: str, seed: int) -> dict[str, float]:
    """Metrics of a finished run on the test set, and its seconds."""
    result = json.loads((runs / name_of(change, seed) / "result.json").read_text())
    return {name: float({**result, **result["metrics"]}[name]) for name, _ in METRICS.values()}


def table(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """A row for each change.

    Args:
        found: metrics of the runs by change and seed.
    """
    titles = [title for name in METRICS for title in (name, "difference")]
    rows = [f"| change | n | {' | '.join(titles)} | flags |", "|---" * (len(titles) + 3) + "|"]
    plain = found.get(RECIPE, {})
    for change, runs in found.items():
        cells = [change, str(len(runs))]
        for metric, digits in METRICS.values():
            cells.append(f"{statistics.mean(run[metric] for run in runs.values()):.{digits}f}")
            pairs = [run[metric] - plain[seed][metric] for seed, run in runs.items() if seed in plain]
            cells.append(difference(pairs, digits) if pairs and change != RECIPE else "")
        rows.append(f"| {' | '.join(cells)} | `{CHANGES[change]}` |")
    return "\n".join(rows)


def difference(pairs: Sequence[float], digits: int) -> str:
    """Mean of differences, and its standard error if there are several."""
    mean = f"{statistics.mean(pairs):+.{digits}f}"
    return f"{mean} ± {statistics.stdev(pairs) / math.sqrt(len(pairs)):.{digits}f}" if len(pairs) > 1 else mean


if __name__ == "__main__":
    main()
