"""From the bytes of images to the input of the network's first convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mxnet import gluon
from numpy.typing import NDArray


class Normalize(gluon.HybridBlock):
    """Turns ``(N, H, W, C) uint8`` into ``(N, C, H, W) float32`` with mean 0 and standard deviation 1 in each channel.

    It runs on the device, so that images are copied there as bytes, a quarter of their size in float32.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Store the statistics of each channel, given on a scale from 0 to 1."""
        super().__init__(prefix="normalize_")
        with self.name_scope():
            shift, factor = constants(mean, std)
            self.shift = self.params.get_constant("shift", shift)
            self.factor = self.params.get_constant("factor", factor)

    def hybrid_forward(self, F: Any, images: Any, shift: Any, factor: Any) -> Any:
        """Normalise a batch."""
        floats = F.cast(F.transpose(images, axes=(0, 3, 1, 2)), dtype="float32")
        return F.broadcast_mul(F.broadcast_sub(floats, shift), factor)


def constants(mean: Sequence[float], std: Sequence[float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shift and factor of pixels from 0 to 255: ``(pixel - shift) * factor``; both ``(1, C, 1, 1) float32``."""
    return _column(mean) * 255, 1 / (_column(std) * 255)


def _column(values: Sequence[float]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(1, -1, 1, 1)
