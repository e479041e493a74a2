"""RandAugment: random operations of one magnitude (Cubuk et al. 2020), with the ranges of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.data import colour, operations
from vggdist.data.randomness import Draws

MAX_MAGNITUDE = 30
_MAX_SHIFT = 150 / 331  # of the largest translation, as a fraction of the side: 150 of AutoAugment's 331 pixels

Operation = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def randaugment(images: NDArray[np.uint8], count: int, magnitude: int, draws: Draws) -> NDArray[np.uint8]:
    """Apply ``count`` random operations to each of ``(B, S, S, C) uint8`` images, in place."""
    table = operations_at(magnitude, images.shape[1])
    drawn = draws.uniforms([f"randaugment {what} {place}" for what in ("operation", "direction") for place in range(count)])
    chosen = (drawn[:count] * len(table)).astype(np.int64).T.tolist()
    turned = (drawn[count:] < 0.5).T.tolist()
    for image, places, directions in zip(images, chosen, turned, strict=True):
        changed = image
        for place, direction in zip(places, directions, strict=True):
            changed = table[place][direction](changed)
        image[...] = changed
    return images


def operations_at(magnitude: int, side: int) -> list[tuple[Operation, Operation]]:
    """The fourteen operations at a magnitude from 0 to 30, in both directions, for images with sides of ``side`` pixels.

    An operation without a direction is listed twice. Pixels from outside the image are black, and geometric operations use the
    nearest pixel, as in torchvision by default.
    """
    level = magnitude / MAX_MAGNITUDE
    shift = int(_MAX_SHIFT * side * level)
    blends = (colour.brightness, colour.saturation, colour.contrast)
    return [
        _one_way(operations.identity),
        _both_ways(operations.shear_x, 0.3 * level),
        _both_ways(operations.shear_y, 0.3 * level),
        _both_ways(operations.translate_x, shift),
        _both_ways(operations.translate_y, shift),
        _both_ways(operations.rotate, 30 * level),
        *(_both_ways(partial(_blended, blend), 0.9 * level, neutral=1) for blend in blends),
        _both_ways(operations.sharpness, 0.9 * level, neutral=1),
        _one_way(operations.posterize, bits=8 - round(4 * level)),
        _one_way(operations.solarize, threshold=255 * (1 - level)),
        _one_way(operations.autocontrast),
        _one_way(operations.equalize),
    ]


def _both_ways(
    operation: Callable[..., NDArray[np.uint8]], strength: float, neutral: float = 0
) -> tuple[Operation, Operation]:
    def at(value: float) -> Operation:
        return lambda image: operation(image, value)

    return at(neutral + strength), at(neutral - strength)


def _one_way(operation: Callable[..., NDArray[np.uint8]], **settings: Any) -> tuple[Operation, Operation]:
    return (partial(operation, **settings),) * 2


def _blended(blend: Callable[..., NDArray[np.uint8]], image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Apply a blend of colour jitter, which takes batches, to one image."""
    return blend(image[None], np.array([factor]))[0]
