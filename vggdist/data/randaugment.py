"""Random operations of one strength (Cubuk et al. 2020, "RandAugment"), with the ranges of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from vggdist.data import colour, operations
from vggdist.data.randomness import Draws

MAX_MAGNITUDE = 30
_REACH = 150 / 331  # share of the side by which the strongest translation moves: 150 pixels in AutoAugment's images of 331

Operation = Callable[[np.ndarray], np.ndarray]


def randaugment(images: np.ndarray, count: int, magnitude: int, draws: Draws) -> np.ndarray:
    """Apply ``count`` operations, each any of the fourteen, to each of ``(B, S, S, C) uint8`` images, in place."""
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
    """The fourteen operations at a magnitude from 0 to 30, for images of a side in pixels, in both directions.

    An operation without a direction stands twice. Where pixels come from outside the image they are black, and geometry
    is to the nearest pixel, as torchvision does unless told otherwise.
    """
    level = magnitude / MAX_MAGNITUDE
    moved = int(_REACH * side * level)
    blends = (colour.brightness, colour.saturation, colour.contrast)
    return [
        _one_way(operations.identity),
        _both_ways(operations.shear_x, 0.3 * level),
        _both_ways(operations.shear_y, 0.3 * level),
        _both_ways(operations.translate_x, moved),
        _both_ways(operations.translate_y, moved),
        _both_ways(operations.rotate, 30 * level),
        *(_both_ways(partial(_blended, blend), 0.9 * level, neutral=1) for blend in blends),
        _both_ways(operations.sharpness, 0.9 * level, neutral=1),
        _one_way(operations.posterize, bits=8 - round(4 * level)),
        _one_way(operations.solarize, threshold=255 * (1 - level)),
        _one_way(operations.autocontrast),
        _one_way(operations.equalize),
    ]


def _both_ways(operation: Callable[..., np.ndarray], strength: float, neutral: float = 0) -> tuple[Operation, Operation]:
    def at(value: float) -> Operation:
        return lambda image: operation(image, value)

    return at(neutral + strength), at(neutral - strength)


def _one_way(operation: Callable[..., np.ndarray], **settings: Any) -> tuple[Operation, Operation]:
    return (partial(operation, **settings),) * 2


def _blended(blend: Callable[..., np.ndarray], image: np.ndarray, factor: float) -> np.ndarray:
    """One of colour jitter's blends, which take batches, of one image."""
    return blend(image[None], np.array([factor]))[0]
