"""Comparison of an exported network with the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.data.resize_crop import resize
from vggdist.models.spec import ModelSpec

LARGEST = 1e-4
"""Largest difference of two probabilities that counts as rounding."""
_TIE = 1e-5
"""Classes whose probabilities differ by at most this are equally probable: either may be the top-1."""

Network = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""``(N, S, S, C) uint8`` to ``(N, num_classes)`` probabilities."""


@dataclass
class Comparison:
    """Result of a comparison.

    Attributes:
        largest: largest difference of probabilities; nan if any probability is nan.
        changed: images with another top-1.
    """

    images: int = 0
    largest: float = 0.0
    changed: int = 0

    @property
    def equal(self) -> bool:
        """Whether there were images, and no difference exceeds rounding."""
        return self.images > 0 and self.largest <= LARGEST and self.changed == 0

    def __str__(self) -> str:
        top = "the same top-1" if not self.changed else f"another top-1 for {self.changed}"
        return f"{self.images} images, largest difference of probabilities {self.largest:.2g}, {top}"


def compare(network: Network, exported: Network, batches: Iterable[NDArray[np.uint8]]) -> Comparison:
    """Compare two networks on batches of ``(N, S, S, C) uint8``."""
    result = Comparison()
    for images in batches:
        expected, values = network(images), exported(images)
        first = np.take_along_axis(expected, values.argmax(axis=1)[:, None], axis=1)[:, 0]
        result.images += len(images)
        result.largest = float(np.maximum(result.largest, np.abs(values - expected).max()))  # keeps nan
        result.changed += int(np.count_nonzero(expected.max(axis=1) - first > _TIE))
    return result


def samples(spec: ModelSpec) -> NDArray[np.uint8]:
    """Fixed test images ``(26, S, S, C) uint8``: noise, black and white noise, smooth pictures, single colours."""
    size, channels = spec.image_size, spec.channels
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (8, size, size, channels), np.uint8)
    extreme = random.integers(0, 2, (4, size, size, channels), np.uint8) * 255
    coarse = random.integers(0, 256, (8, 4, 4, channels), np.uint8)
    smooth = np.stack([resize(image, size, size) for image in coarse])
    flat = np.empty((6, size, size, channels), np.uint8)
    flat[:3], flat[3:] = np.reshape([0, 128, 255], (3, 1, 1, 1)), random.integers(0, 256, (3, 1, 1, channels))
    return np.concatenate([noise, extreme, smooth, flat])
