"""The names of an evaluation's metrics, as files, console and TensorBoard have them."""

from __future__ import annotations

from collections.abc import Mapping

LOWER_IS_BETTER = {"loss"}
_UNITS = {"top1": "top1(%)", "top5": "top5(%)"}


def metric_name(part: str, metric: str) -> str:
    """The name of a metric with its part of the data set and its unit: ``eval/top1(%)``."""
    return f"{part}/{_UNITS.get(metric, metric)}"


def named(part: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a part by their full names."""
    return {metric_name(part, name): value for name, value in metrics.items()}
