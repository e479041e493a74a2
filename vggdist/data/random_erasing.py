"""Cutout and random erasing: parts of an image are filled with the mean colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggdist.data.crop_boxes import box_draws, fitting_box
from vggdist.data.randomness import Draws

# As in torchvision and in the paper, whose ratios are of height to width.
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (1 / 3.3, 1 / 0.3)


def cutout(
    images: NDArray[np.uint8], side: int, rows: NDArray[np.int64], columns: NDArray[np.int64], fill: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Fill a square of each image, in place (DeVries & Taylor 2017).

    Args:
        images: ``(B, H, W, C) uint8``.
        side: of the square in pixels; it is clipped at the image border.
        rows, columns: ``(B,)`` centre of each square.
        fill: ``(C,) uint8``.
    """
    tops, lefts = rows - side // 2, columns - side // 2
    # A mask over all pixels takes three times as long as these slices.
    for image, top, left in zip(images, tops.tolist(), lefts.tolist(), strict=True):
        image[max(top, 0) : top + side, max(left, 0) : left + side] = fill
    return images


def erase(images: NDArray[np.uint8], probability: float, fill: NDArray[np.uint8], draws: Draws) -> NDArray[np.uint8]:
    """Fill a rectangle of some images, in place (Zhong et al. 2017, algorithm 1).

    Args:
        images: ``(B, H, W, C) uint8``.
        probability: of an image to be changed; it is unchanged if none of ten random rectangles fits.
        fill: ``(C,) uint8``.
    """
    _, height, width, _ = images.shape
    slots = np.flatnonzero(draws.uniform("erasing") < probability)
    drawn = box_draws(Draws(draws.seed, draws.epoch, draws.samples[slots]), "erasing")
    for slot, numbers in zip(slots.tolist(), drawn, strict=True):
        if (box := fitting_box(height, width, _ERASED_AREA, _ERASED_RATIO, numbers)) is not None:
            box.of(images[slot])[:] = fill
    return images
