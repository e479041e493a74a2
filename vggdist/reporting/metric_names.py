"""The names of an evaluation's metrics in files, on the console and in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping

LOWER_IS_BETTER = {"loss"}
_UNITS = {"top1": "top1(%)", "top5": "top5(%)"}


def metric_name(part: str, metric: str) -> str:
    """The name of a metric with its part of the data set and its unit: ``eval/top1(%)``."""
    return f"{part}/{_UNITS.get(metric, metric)}"


def named(part: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a part by full name."""
    return {metric_name(part, name): value for name, value in metrics.items()}
