"""Progress of a run: its counters and metrics, as a checkpoint stores them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vggdist.checkpoints.schema import IntervalState, ProgressState
from vggdist.reporting.metric_names import LOWER_IS_BETTER, metric_name
from vggdist.training.metrics import MovingAverage


@dataclass
class Progress:
    """The counters and running values of a run.

    Attributes:
        step: finished steps.
        moving_average: of the training loss, updated with each step.
        training_metrics, evaluation_metrics: the newest.
        evaluated_step: the step of the newest evaluation.
        best_value, best_step: of the best evaluation so far.
        interval: sums of the steps since the last report
            (:meth:`~vggdist.training.metric_accumulator.MetricAccumulator.as_state`).
    """

    moving_average: MovingAverage
    step: int = 0
    training_metrics: dict[str, float] = field(default_factory=dict)
    evaluation_metrics: dict[str, float] = field(default_factory=dict)
    evaluated_step: int | None = None
    best_value: float | None = None
    best_step: int | None = None
    interval: IntervalState | None = None

    def update_best(self, part: str, metric: str) -> bool:
        """Compare the newest evaluation of a part with the best so far; returns whether it is better."""
        value = self.evaluation_metrics[metric_name(part, metric)]
        sign = -1 if metric in LOWER_IS_BETTER else 1
        if math.isnan(value) or self.best_value is not None and not sign * value > sign * self.best_value:
            return False
        self.best_value, self.best_step = value, self.step
        return True

    def drop_metrics(self, parts: Iterable[str]) -> None:
        """Remove the metrics of parts of the data set, which are those of an earlier end of the run."""
        metrics = self.evaluation_metrics.items()
        self.evaluation_metrics = {name: value for name, value in metrics if name.partition("/")[0] not in {*parts}}

    def as_state(self) -> ProgressState:
        """JSON values that :meth:`restore` reads; a metric that is not finite is null."""
        return {
            "step": self.step,
            "moving_average": self.moving_average.value,
            "best_value": self.best_value,
            "best_step": self.best_step,
            "evaluated_step": self.evaluated_step,
            "interval": self.interval,
            "training_metrics": _with_null(self.training_metrics),
            "evaluation_metrics": _with_null(self.evaluation_metrics),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set all values to those of a checkpoint."""
        self.step = state["step"]
        self.moving_average.value = state["moving_average"]
        self.best_value, self.best_step = state["best_value"], state["best_step"]
        self.evaluated_step = state["evaluated_step"]
        self.interval = state["interval"]
        self.training_metrics = _with_nan(state["training_metrics"])
        self.evaluation_metrics = _with_nan(state["evaluation_metrics"])


def _with_null(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _with_nan(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}
