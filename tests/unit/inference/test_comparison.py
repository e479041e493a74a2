"""Differences for which an export is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from tests.states import MODEL
from vggdist.inference.comparison import compare, samples

PROBABILITIES = np.array([[0.7, 0.3], [0.2, 0.8]])
BATCHES = [np.zeros((2, 4, 4, 1), np.uint8)] * 3


@pytest.mark.parametrize(
    ("change", "largest", "changed", "equal"),
    [
        ([[0, 0], [0, 0]], 0.0, 0, True),
        ([[9e-5, -9e-5], [0, 0]], 9e-5, 0, True),
        ([[0, 0], [2e-4, 0]], 2e-4, 0, False),
        ([[0, 0], [0.7, 0]], 0.7, 3, False),
        ([[0, 0], [math.nan, 0]], math.nan, 3, False),
        ([[0, math.inf], [0, 0]], math.inf, 3, False),
    ],
)
def test_only_rounding_is_equal(change: list[list[float]], largest: float, changed: int, equal: bool) -> None:
    found = compare(lambda images: PROBABILITIES, lambda images: PROBABILITIES + change, BATCHES)
    assert (found.images, found.changed, found.equal) == (6, changed, equal)
    assert found.largest == pytest.approx(largest, nan_ok=True)


def test_equally_probable_classes_may_change_places() -> None:
    ours, theirs = np.array([[0.5 - 2e-6, 0.5 + 2e-6]]), np.array([[0.5 + 2e-6, 0.5 - 2e-6]])
    assert compare(lambda images: ours, lambda images: theirs, [BATCHES[0][:1]]).equal


def test_without_images_nothing_is_known() -> None:
    assert not compare(lambda images: PROBABILITIES, lambda images: PROBABILITIES, []).equal


@pytest.mark.parametrize("channels", [1, 3])
def test_images_to_compare_on_are_always_the_same(channels: Literal[1, 3]) -> None:
    spec = replace(MODEL, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels)
    made = samples(spec)
    assert made.shape == (26, 8, 8, channels) and made.dtype == np.uint8 and len(np.unique(made, axis=0)) == 26
    np.testing.assert_array_equal(made, samples(spec))
