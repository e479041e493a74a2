"""Draw the curves of docs/results.md: ``.venv/bin/python benchmarks/results.py``.

For each ``docs/results/NAME.jsonl``, the metrics of a run, whose NAME is in ``docs/results/published.yaml``: what is
published beside what was measured, as ``docs/results/NAME.svg``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vggdist.benchmarking.charts import COLOURS, MARKERS, panels

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
TITLES = {
    "eval/top1(%)": "test accuracy (%)",
    "train/top1(%)": "training accuracy (%), mean of the epoch",
    "train/loss_moving_average": "moving average of the training loss",
}
Curve = Mapping[float, float]
"""Values of a metric by epoch, or by step for the loss."""


def main() -> None:
    """Draw each run that has published figures."""
    matplotlib.rcParams["svg.hashsalt"] = "vggdist"  # the same file from the same curves
    for name, metrics in published().items():
        path = RESULTS / f"{name}.jsonl"
        if path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            target = path.with_suffix(".svg")
            drawn(metrics, lines).savefig(target, metadata={"Date": None})
            print(target)


def published() -> dict[str, dict[str, Curve]]:
    """The published curves: name of the configuration -> metric -> curve."""
    found: dict[str, dict[str, Curve]] = yaml.safe_load((RESULTS / "published.yaml").read_text())
    return found


def drawn(metrics: Mapping[str, Curve], lines: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel for each metric.

    Args:
        metrics: published curves.
        lines: of the run's ``metrics.jsonl``.
    """
    figure, axes = panels(len(metrics))
    for panel, (metric, curve) in zip(axes, metrics.items()):
        steps = sorted(curve)
        even = len({later - earlier for earlier, later in zip(steps, steps[1:])}) == 1  # else some are not published
        mine, unit = measured(metric, lines), "step" if "loss" in metric else "epoch"
        if unit == "epoch":
            panel.set_xticks(sorted({*curve, *mine}))
        _line(panel, 0, mine, "vggdist", linestyle="-")
        # Open squares around the points of vggdist, so that both are seen where they agree.
        _line(panel, 1, curve, "published", linestyle="--" if even else "", markersize=10, markerfacecolor="none")
        panel.set_title(TITLES[metric])
        panel.set_xlabel(unit)
        panel.legend()
    return figure


def measured(metric: str, lines: Sequence[Mapping[str, Any]]) -> Curve:
    """A metric of a run: of training accuracy the mean of each epoch, over its steps."""
    found = [line for line in lines if metric in line]
    if "loss" in metric:
        return {line["step"]: line[metric] for line in found}
    if metric.startswith("eval"):
        return {line["epoch"]: line[metric] for line in found}
    sums: dict[int, float] = {}
    steps: dict[int, int] = {}
    before = 0
    for line in found:
        epoch = math.ceil(line["epoch"])  # the epoch in which the interval ended
        sums[epoch] = sums.get(epoch, 0.0) + line[metric] * (line["step"] - before)
        steps[epoch] = steps.get(epoch, 0) + line["step"] - before
        before = line["step"]
    return {epoch: total / steps[epoch] for epoch, total in sums.items()}


def _line(panel: Axes, place: int, curve: Curve, label: str, **style: Any) -> None:
    marker = MARKERS[place] if len(curve) <= 20 else None
    panel.plot(*zip(*curve.items()), color=COLOURS[place], marker=marker, label=label, **style)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
