"""How an image lies in its frame: shifted and mirrored."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def pad_crop(images: np.ndarray, padding: int, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """Pad each side with black and crop the old size (He et al. 2016, section 4.2).

    Args:
        images: ``(B, H, W, C) uint8``.
        padding: pixels on each side.
        tops, lefts: ``(B,)`` corner of each crop in its padded image, from 0 to twice the padding.
    """
    batch, height, width, channels = images.shape
    padded = np.zeros((batch, height + 2 * padding, width + 2 * padding, channels), np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = images
    # Windows over whole rows of bytes: numpy then copies a row at once instead of a pixel.
    windows = sliding_window_view(padded.reshape(batch, padded.shape[1], -1), (1, height, width * channels))
    return windows[np.arange(batch), tops, lefts * channels].reshape(images.shape)


def flip(images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirror left and right, in place, the images ``(B, H, W, C)`` that ``(B,) bool`` names."""
    for place in np.flatnonzero(mirrored):  # numpy would go through them pixel by pixel, 30 times as long
        cv2.flip(images[place], 1, dst=images[place])
    return images
