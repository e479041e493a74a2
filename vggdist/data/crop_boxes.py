"""Which part of an image is meant: arithmetic on sizes, without pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vggdist.config.images import AugmentConfig
from vggdist.data.randomness import Draws

ATTEMPTS = 10  # torchvision's: by then all but images of an extreme shape have found a crop that fits


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """A view of this part of ``(H, W, C)`` or of each of ``(..., H, W, C)``."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width, :]

    def scaled(self, vertically: float, horizontally: float) -> Box:
        """The nearest box of whole pixels in an image that was scaled by these factors."""
        top, bottom = round(self.top * vertically), round((self.top + self.height) * vertically)
        left, right = round(self.left * horizontally), round((self.left + self.width) * horizontally)
        return Box(top, left, max(1, bottom - top), max(1, right - left))


class BoxDraws(NamedTuple):
    """The numbers in [0, 1) that decide a random box in the image of one sample."""

    attempts: list[list[float]]
    """For each attempt, one number for the area and one for the ratio."""
    top: float
    left: float


def centre_box(height: int, width: int, box_height: int, box_width: int) -> Box:
    """A box in the middle of an image; torchvision's rounding of halves."""
    return Box(round((height - box_height) / 2), round((width - box_width) / 2), box_height, box_width)


def five_boxes(height: int, width: int, size: int) -> list[Box]:
    """The centre and the four corners of an image, each of ``size`` pixels a side (Krizhevsky et al. 2012, section 4.1)."""
    corners = [Box(top, left, size, size) for top in (0, height - size) for left in (0, width - size)]
    return [centre_box(height, width, size, size), *corners]


def box_draws(draws: Draws, stream: str) -> list[BoxDraws]:
    """The numbers of each of ``(B,)`` samples; ``stream`` is what the boxes are for."""
    attempts = [f"{stream} {what} {attempt}" for attempt in range(ATTEMPTS) for what in ("area", "ratio")]
    drawn = draws.uniforms([*attempts, f"{stream} top", f"{stream} left"])
    by_sample = drawn[:-2].T.reshape(-1, ATTEMPTS, 2).tolist(), drawn[-2].tolist(), drawn[-1].tolist()
    return [BoxDraws(*numbers) for numbers in zip(*by_sample, strict=True)]


def training_box(height: int, width: int, size: int, config: AugmentConfig, draws: BoxDraws) -> Box:
    """The part of an image that becomes a square of ``size`` pixels a side in training."""
    if config.scale_jitter is None:
        return random_box(height, width, config, draws)
    return jittered_box(height, width, size, config.scale_jitter, draws)


def random_box(height: int, width: int, config: AugmentConfig, draws: BoxDraws) -> Box:
    """The first attempted crop that fits into an image, else the largest central one whose ratio is allowed.

    Szegedy et al. 2015, section 6, with torchvision's ten attempts.
    """
    box = fitting_box(height, width, config.crop_scale, config.crop_ratio, draws)
    return _largest_box(height, width, config.crop_ratio) if box is None else box


def fitting_box(
    height: int, width: int, areas: tuple[float, float], ratios: tuple[float, float], draws: BoxDraws
) -> Box | None:
    """The first attempted box that fits into an image; None where none does.

    The share of the area is uniform in ``areas``; the logarithm of width / height is uniform in that of ``ratios``, so that
    a box is as often wide as narrow.
    """
    smallest, largest = areas
    narrowest, widest = (math.log(ratio) for ratio in ratios)
    # One attempt after the other, since the first mostly fits: all at once in numpy costs 18 us more for each image.
    for area_draw, ratio_draw in draws.attempts:
        area = height * width * (smallest + (largest - smallest) * area_draw)
        ratio = math.exp(narrowest + (widest - narrowest) * ratio_draw)
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            return _placed(height, width, box_height, box_width, draws)
    return None


def jittered_box(height: int, width: int, size: int, shorts: tuple[int, int], draws: BoxDraws) -> Box:
    """What a random crop of ``size`` pixels shows of an image whose short side was scaled to a random length.

    Simonyan & Zisserman 2015, section 3.1; each whole length of ``shorts`` (smallest, largest) is equally likely.
    """
    shortest, longest = shorts
    short = shortest + int(draws.attempts[0][0] * (longest - shortest + 1))
    side = max(1, round(min(height, width) * size / short))
    return _placed(height, width, side, side, draws)


def _placed(height: int, width: int, box_height: int, box_width: int, draws: BoxDraws) -> Box:
    """A box anywhere in an image."""
    top, left = int(draws.top * (height - box_height + 1)), int(draws.left * (width - box_width + 1))
    return Box(top, left, box_height, box_width)


def _largest_box(height: int, width: int, allowed: tuple[float, float]) -> Box:
    """The whole image, its long side cut to the nearest allowed ratio of width to height."""
    ratio = min(max(width / height, allowed[0]), allowed[1])
    box_height = max(1, min(height, round(width / ratio)))
    box_width = max(1, min(width, round(height * ratio)))
    return centre_box(height, width, box_height, box_width)
