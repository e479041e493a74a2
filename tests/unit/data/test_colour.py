"""Colour augmentation equals Pillow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.images import noise
from vggdist.data.colour import brightness, contrast, lighting, saturation


@pytest.mark.parametrize(
    ("change", "pillows"),
    [
        (brightness, ImageEnhance.Brightness),
        (contrast, ImageEnhance.Contrast),
        (saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_is_pillows_within_one(change: Callable[..., np.ndarray], pillows: Any, channels: int) -> None:
    factors = np.array([0.0, 0.3, 1.0, 1.6, 2.0])
    images = noise(5, 16, 16, channels)
    for image, result, factor in zip(images, change(images, factors), factors, strict=True):
        expected = np.asarray(pillows(Image.fromarray(image.squeeze())).enhance(factor)).reshape(image.shape)
        assert np.abs(result.astype(int) - expected).max() <= 1


def test_lighting_shifts_the_colour_along_the_published_components() -> None:
    images = np.full((3, 2, 2, 3), 100, np.uint8)
    shares = np.array([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [-0.5, 3.0, 4.0]])
    # Gluon's figures, on a scale to 255: deviations 55.46, 4.794, 1.148.
    expected = [[69, 68, 68], [93, 100, 107], [128, 112, 108]]
    np.testing.assert_array_equal(lighting(images, shares)[:, 1, 1], expected)
    assert (images == images[:, :1, :1]).all()


def test_lighting_stays_within_a_byte() -> None:
    images = np.stack([np.full((5, 4, 3), value, np.uint8) for value in (0, 255)])
    assert (lighting(images, np.array([[9.0, 0, 0], [-9.0, 0, 0]])) == [[[[0]]], [[[255]]]]).all()
