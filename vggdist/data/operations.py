"""The operations of AutoAugment on one image ``(S, S, C) uint8``, as in Pillow.

The results equal Pillow's bit for bit, except for sharpness and the blends of :mod:`vggdist.data.colour`, which are equal to
within one level.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_BITS = 16  # fractional bits of Pillow's coordinates; only the same rounding selects the same pixels
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's ImageFilter.SMOOTH
_LEVELS = np.arange(256)
_SAME = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)


def identity(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image itself."""
    return image


def shear_x(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Shear horizontally: each row is shifted by ``share`` pixels relative to the row above."""
    return _transform(image, (1, share, 0), (0, 1, 0))


def shear_y(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Shear vertically: each column is shifted by ``share`` pixels relative to the column on its left."""
    return _transform(image, (1, 0, 0), (share, 1, 0))


def translate_x(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Translate to the right."""
    return _transform(image, (1, 0, -pixels), (0, 1, 0))


def translate_y(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Translate down."""
    return _transform(image, (1, 0, 0), (0, 1, -pixels))


def rotate(image: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Rotate counter-clockwise around the centre."""
    height, width = image.shape[:2]
    # Rounded as in Pillow, so that the cosine of a right angle is 0.
    cosine, sine = (round(function(math.radians(degrees)), 15) for function in (math.cos, math.sin))
    left = width / 2 - cosine * width / 2 + sine * height / 2
    top = height / 2 - sine * width / 2 - cosine * height / 2
    return _transform(image, (cosine, -sine, left), (sine, cosine, top))


def _transform(image: NDArray[np.uint8], across: tuple[float, ...], down: tuple[float, ...]) -> NDArray[np.uint8]:
    """Affine transform: the pixel at x, y is copied from ``(a x + b y + c, d x + e y + f)``; black outside the image."""
    height, width = image.shape[:2]
    columns, rows = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    places = np.empty((height, width, 2), np.int16)
    for axis, (by_column, by_row, offset) in enumerate((across, down)):
        first = _fixed(offset + by_column / 2 + by_row / 2)
        places[..., axis] = (_fixed(by_column) * columns + (_fixed(by_row) * rows + first)) >> _BITS
    moved = cv2.remap(image, places, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)  # type: ignore[call-overload]
    return moved.reshape(image.shape)


def _fixed(value: float) -> int:
    return math.floor(value * (1 << _BITS) + 0.5)


def sharpness(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Blend with the smoothed image: blurred below a factor of 1, sharpened above. Border pixels are unchanged."""
    changed = np.asarray(cv2.filter2D(image, -1, factor * _SAME + (1 - factor) * _SMOOTH), np.uint8).reshape(image.shape)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        changed[edge] = image[edge]
    return changed


def posterize(image: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Keep the highest bits of each byte."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
    """Invert values at or above the threshold."""
    return _looked_up(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS)[None])


def autocontrast(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretch the range of each channel to 0 to 255; a channel with a single level is unchanged."""
    occurs = _histograms(image) > 0
    darkest, brightest = occurs.argmax(axis=1)[:, None], 255 - occurs[:, ::-1].argmax(axis=1)[:, None]
    scale = 255 / np.maximum(brightest - darkest, 1)
    return _looked_up(image, np.where(brightest > darkest, _LEVELS * scale - darkest * scale, _LEVELS))


def equalize(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Equalise the histogram of each channel; a channel with almost a single level is unchanged."""
    counts = _histograms(image)
    brightest = 255 - (counts > 0)[:, ::-1].argmax(axis=1)[:, None]
    step = (image.shape[0] * image.shape[1] - np.take_along_axis(counts, brightest, axis=1)) // 255
    darker = np.cumsum(counts, axis=1) - counts
    return _looked_up(image, np.where(step > 0, (step // 2 + darker) // np.maximum(step, 1), _LEVELS))


def _histograms(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Histogram of each channel, ``(C, 256) int64``."""
    counts = [cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(image.shape[2])]
    return np.concatenate(counts, axis=1).T.astype(np.int64)


def _looked_up(image: NDArray[np.uint8], tables: NDArray[Any]) -> NDArray[np.uint8]:
    """Apply a lookup table, ``(1, 256)`` for all channels or ``(C, 256)``; its values are clipped to bytes."""
    return np.asarray(cv2.LUT(image, np.clip(tables, 0, 255).astype(np.uint8).T[None]), np.uint8).reshape(image.shape)
