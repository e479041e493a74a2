"""The scale is halved after an overflow, doubled after many steps without one, and continues from a checkpoint."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import pytest

from vggdist.config.errors import RunError
from vggdist.config.schema import TrainConfig
from vggdist.training import loss_scale
from vggdist.training.loss_scale import COMPRESSED, FIRST, LARGEST, LossScale


def dynamic() -> LossScale:
    return LossScale(TrainConfig(loss_scale="dynamic"))


def course(scale: LossScale, steps: str) -> list[float]:
    """The scale of each step: ``.`` is a step without overflow, ``x`` one with."""
    scales = []
    for step in steps:
        scales.append(scale.value)
        scale.note(mx.nd.array([step == "."]))
    return scales


def test_a_fixed_scale_stays() -> None:
    scale = LossScale(TrainConfig(loss_scale=8))
    assert course(scale, "..xx..") == [8] * 6 and scale.state() is None


def test_an_overflow_halves_the_scale_of_the_step_after_the_next() -> None:
    assert course(dynamic(), ".x..xx...") == [FIRST] * 3 + [FIRST / 2] * 3 + [FIRST / 4] + [FIRST / 8] * 2


def test_it_is_doubled_after_good_steps_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS", 3)
    assert course(dynamic(), "." * 8) == [FIRST] * 4 + [2 * FIRST] * 3 + [4 * FIRST]
    assert course(dynamic(), "..x......")[-3:] == [FIRST / 2, FIRST, FIRST]
    assert course(dynamic(), "." * 60)[-1] == LARGEST


@pytest.mark.parametrize("steps", [".x..xx.x....x...", "xxxx....", "......"])
def test_a_run_that_stops_anywhere_goes_on_with_the_same_scales(steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS", 2)
    whole = course(dynamic(), steps)
    for cut in range(len(steps)):
        before, after = dynamic(), dynamic()
        made = course(before, steps[:cut])
        after.restore(json.loads(json.dumps(before.state())))
        assert made + course(after, steps[cut:]) == whole


def test_gradients_that_are_never_finite_end_the_run() -> None:
    with pytest.raises(RunError, match="not finite, though the loss was scaled down to") as error:
        course(dynamic(), "x" * 40)
    assert error.value.agreed


@pytest.mark.parametrize(
    ("options", "value", "is_dynamic"),
    [
        ({}, 1, False),
        ({"precision": "float16"}, FIRST, True),
        ({"precision": "float16", "loss_scale": 128.0}, 128, False),
        ({"compression": "fp16"}, COMPRESSED, False),
        ({"compression": "fp16", "loss_scale": 1.0}, 1, False),
        ({"compression": "fp16", "precision": "float16"}, COMPRESSED, True),
    ],
)
def test_what_travels_as_float16_shares_the_scale(options: dict[str, Any], value: float, is_dynamic: bool) -> None:
    scale = LossScale(TrainConfig(**options))
    assert (scale.value, scale.is_dynamic) == (value, is_dynamic)
    assert scale.metrics() == ({"optim/loss_scale": value} if is_dynamic else {})
