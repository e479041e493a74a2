"""What is read of the steps between two reports."""

from __future__ import annotations

import math

import mxnet as mx
import pytest

from vggdist.config.errors import RunError
from vggdist.training.interval import Interval
from vggdist.training.metrics import MovingAverage
from vggdist.training.step import StepOutcome
from vggdist.world.process import World


def interval_of(*losses: float) -> Interval:
    interval = Interval(World(), first_step=10)
    for loss in losses:
        interval.add(StepOutcome(mx.nd.array([loss]), mx.nd.array([1.0]), None, not math.isfinite(loss)), num_valid=2)
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


def test_skipped_steps_alone_leave_no_moving_average_and_do_not_fail() -> None:
    metrics = interval_of(math.nan, math.inf).metrics(0.1, MovingAverage(0.5), False, mx.cpu())
    assert metrics["train/skipped_steps"] == 2
    assert math.isnan(metrics["train/loss_moving_average"])
