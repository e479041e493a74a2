"""Colours change as Pillow changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.images import noise
from vggdist.data.colour import brightness, contrast, saturation


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
