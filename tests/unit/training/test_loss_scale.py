"""The scale is halved after an overflow, doubled after long without one, and goes on where a checkpoint left it."""

from __future__ import annotations

import json

import mxnet as mx
import pytest

from vggdist.config.errors import RunError
from vggdist.training import loss_scale
from vggdist.training.loss_scale import FIRST, LARGEST, LossScale


def course(scale: LossScale, steps: str) -> list[float]:
    """The scale with which each step was made: ``.`` is one without overflow, ``x`` one with."""
    found = []
    for step in steps:
        found.append(scale.value)
        scale.note(mx.nd.array([step == "."]))
    return found


def test_a_fixed_scale_stays() -> None:
    scale = LossScale(8)
    assert course(scale, "..xx..") == [8] * 6 and scale.state() is None


def test_an_overflow_halves_the_scale_of_the_step_after_the_next() -> None:
    assert course(LossScale("dynamic"), ".x..xx...") == [FIRST] * 3 + [FIRST / 2] * 3 + [FIRST / 4] + [FIRST / 8] * 2


def test_it_is_doubled_after_good_steps_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS", 3)
    assert course(LossScale("dynamic"), "." * 8) == [FIRST] * 4 + [2 * FIRST] * 3 + [4 * FIRST]
    assert course(LossScale("dynamic"), "..x......")[-3:] == [FIRST / 2, FIRST, FIRST]
    assert course(LossScale("dynamic"), "." * 60)[-1] == LARGEST


@pytest.mark.parametrize("steps", [".x..xx.x....x...", "xxxx....", "......"])
def test_a_run_that_stops_anywhere_goes_on_with_the_same_scales(steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS", 2)
    whole = course(LossScale("dynamic"), steps)
    for cut in range(len(steps)):
        before, after = LossScale("dynamic"), LossScale("dynamic")
        made = course(before, steps[:cut])
        after.restore(json.loads(json.dumps(before.state())))
        assert made + course(after, steps[cut:]) == whole


def test_gradients_that_are_never_finite_end_the_run() -> None:
    with pytest.raises(RunError, match="not finite, though the loss was scaled down to") as error:
        course(LossScale("dynamic"), "x" * 40)
    assert error.value.agreed
