"""Metrics of the steps between two reports."""

from __future__ import annotations

import json
import math
from typing import Any

import mxnet as mx
import pytest

from vggdist.collectives.world import World
from vggdist.config.errors import RunError
from vggdist.training.metric_accumulator import MetricAccumulator
from vggdist.training.metrics import MovingAverage
from vggdist.training.step import StepOutcome


def interval_of(*losses: float, earlier: Any = None) -> MetricAccumulator:
    interval = MetricAccumulator(World(), first_step=10, earlier=earlier)
    for loss in losses:
        finite = mx.nd.array([math.isfinite(loss)])
        interval.add(StepOutcome(mx.nd.array([loss]), mx.nd.array([1.0]), None, finite, mx.nd.zeros(2)), num_valid=2)
    return interval


def test_means_are_over_samples_and_the_moving_average_over_steps() -> None:
    average = MovingAverage(0.5)
    metrics = interval_of(2.0, 4.0, 8.0).metrics(0.1, average, True, mx.cpu())
    assert metrics["train/loss"] == pytest.approx(14 / 6)
    assert metrics["train/loss_moving_average"] == pytest.approx(0.5 * (0.5 * 1 + 0.5 * 2) + 0.5 * 4)
    assert metrics["train/top1(%)"] == pytest.approx(50)


def test_the_first_loss_that_is_not_finite_is_named_with_step_and_rank() -> None:
    with pytest.raises(RunError, match="the loss of step 12 on rank 0 is not finite"):
        interval_of(1.0, math.nan, math.inf).metrics(0.1, MovingAverage(0.5), True, mx.cpu())


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_named_with_its_step(norm: float) -> None:
    interval = interval_of(1.0, 1.0)
    interval.add(StepOutcome(mx.nd.ones(1), mx.nd.ones(1), mx.nd.array([norm]), None, mx.nd.zeros(2)), num_valid=2)
    with pytest.raises(RunError, match="the gradient of step 13 is not finite; lower"):
        interval.metrics(0.1, MovingAverage(0.5), True, mx.cpu())
    assert interval.metrics(0.1, MovingAverage(0.5), False, mx.cpu())["optim/grad_norm"] == pytest.approx(norm, nan_ok=True)


def test_skipped_steps_alone_leave_no_moving_average_and_do_not_fail() -> None:
    metrics = interval_of(math.nan, math.inf).metrics(0.1, MovingAverage(0.5), False, mx.cpu())
    assert metrics["train/skipped_steps"] == 2
    assert all(math.isnan(metrics[f"train/{name}"]) for name in ("loss", "loss_moving_average", "top1(%)"))


@pytest.mark.parametrize("cut", range(4))
def test_an_interval_that_is_cut_in_two_by_a_checkpoint_has_the_metrics_of_the_whole(cut: int) -> None:
    losses = (2.0, math.nan, 8.1)
    whole, parts = MovingAverage(0.3), MovingAverage(0.3)
    expected = interval_of(*losses, 4.7).metrics(0.1, whole, False, mx.cpu())
    state = json.loads(json.dumps(interval_of(*losses[:cut]).as_state(stop_at_nonfinite=False), allow_nan=False))
    continued = interval_of(*losses[cut:], 4.7, earlier=state).metrics(0.1, parts, False, mx.cpu())
    same = ["train/loss", "train/loss_moving_average", "train/top1(%)", "train/skipped_steps", "optim/learning_rate"]
    assert [continued[name] for name in same] == [expected[name] for name in same] and whole.value == parts.value


def test_a_checkpoint_within_an_interval_is_refused_when_a_loss_is_not_finite() -> None:
    with pytest.raises(RunError, match="the loss of step 12 on rank 0 is not finite"):
        interval_of(1.0, math.nan).as_state(stop_at_nonfinite=True)
