"""Parts of an image that are filled with the mean colour, so that the network looks at the rest."""

from __future__ import annotations

import numpy as np


def cutout(images: np.ndarray, side: int, rows: np.ndarray, columns: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Fill a square of each image, in place (DeVries & Taylor 2017).

    Args:
        images: ``(B, H, W, C) uint8``.
        side: of the square in pixels; what lies beyond the image's border is lost.
        rows, columns: ``(B,)`` centre of each square, anywhere in the image.
        fill: ``(C,) uint8``.
    """
    tops, lefts = rows - side // 2, columns - side // 2
    # A mask over all pixels takes three times as long as these slices.
    for image, top, left in zip(images, tops.tolist(), lefts.tolist(), strict=True):
        image[max(top, 0) : top + side, max(left, 0) : left + side] = fill
    return images
