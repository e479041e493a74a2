"""Pad-and-crop and horizontal flip."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vggdist.config.images import PadMode


def pad(images: NDArray[np.uint8], padding: int, mode: PadMode) -> NDArray[np.uint8]:
    """Add ``padding`` pixels on each side of the images ``(B, H, W, C)``.

    Args:
        mode: constant: black; reflect: the image mirrored at its border, whose pixels are not repeated.
    """
    return np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode)


def pad_crop(
    images: NDArray[np.uint8], padding: int, tops: NDArray[np.int64], lefts: NDArray[np.int64], mode: PadMode = "constant"
) -> NDArray[np.uint8]:
    """Pad each side and crop the original size (He et al. 2016, section 4.2).

    Args:
        images: ``(B, H, W, C) uint8``.
        padding: pixels on each side.
        tops, lefts: ``(B,)`` top left corner of each crop in the padded image, from 0 to twice the padding.
        mode: see :func:`pad`.
    """
    batch, height, width, channels = images.shape
    padded = pad(images, padding, mode)
    # Windows over rows of bytes, so that numpy copies row by row instead of pixel by pixel.
    windows = sliding_window_view(padded.reshape(batch, padded.shape[1], -1), (1, height, width * channels))
    return windows[np.arange(batch), tops, lefts * channels].reshape(images.shape)


def flip(images: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Flip the images ``(B, H, W, C)`` horizontally that are selected by ``(B,) bool``, in place."""
    for place in np.flatnonzero(mirrored):  # numpy copies pixel by pixel, which takes 30 times as long
        cv2.flip(images[place], 1, dst=images[place])
    return images
