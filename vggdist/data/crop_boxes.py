"""Crop boxes, computed from image sizes without pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggdist.config.images import AugmentConfig
from vggdist.data.randomness import Draws

ATTEMPTS = 10  # as in torchvision: enough for all images except those of extreme shape


class Box(NamedTuple):
    """A rectangle in an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of the box in ``(H, W, C)``, or in each of ``(..., H, W, C)``."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width, :]

    def scaled(self, vertically: float, horizontally: float) -> Box:
        """The nearest box of whole pixels in an image scaled by these factors."""
        top, bottom = round(self.top * vertically), round((self.top + self.height) * vertically)
        left, right = round(self.left * horizontally), round((self.left + self.width) * horizontally)
        return Box(top, left, max(1, bottom - top), max(1, right - left))


class BoxDraws(NamedTuple):
    """The random numbers in [0, 1) that determine a random box for one sample."""

    attempts: list[list[float]]
    """For each attempt, one number for the area and one for the ratio."""
    top: float
    left: float


def centre_box(height: int, width: int, box_height: int, box_width: int) -> Box:
    """The central box of an image; halves are rounded as in torchvision."""
    return Box(round((height - box_height) / 2), round((width - box_width) / 2), box_height, box_width)


def five_boxes(height: int, width: int, size: int) -> list[Box]:
    """The centre and the four corners of an image, each of ``size`` pixels a side (Krizhevsky et al. 2012, section 4.1)."""
    corners = [Box(top, left, size, size) for top in (0, height - size) for left in (0, width - size)]
    return [centre_box(height, width, size, size), *corners]


def box_draws(draws: Draws, stream: str) -> list[BoxDraws]:
    """The random numbers of each of ``(B,)`` samples from the streams of a purpose, such as "crop"."""
    attempts = [f"{stream} {what} {attempt}" for attempt in range(ATTEMPTS) for what in ("area", "ratio")]
    drawn = draws.uniforms([*attempts, f"{stream} top", f"{stream} left"])
    by_sample = drawn[:-2].T.reshape(-1, ATTEMPTS, 2).tolist(), drawn[-2].tolist(), drawn[-1].tolist()
    return [BoxDraws(*numbers) for numbers in zip(*by_sample, strict=True)]


def training_box(height: int, width: int, size: int, config: AugmentConfig, draws: BoxDraws) -> Box:
    """The random crop of an image in training, before it is scaled to a square with sides of ``size`` pixels."""
    if config.scale_jitter is None:
        return random_box(height, width, config, draws)
    return jittered_box(height, width, size, config.scale_jitter, draws)


def random_box(height: int, width: int, config: AugmentConfig, draws: BoxDraws) -> Box:
    """The first attempted crop that fits into the image, else the largest central crop with an allowed ratio.

    Szegedy et al. 2015, section 6, with ten attempts as in torchvision.
    """
    box = fitting_box(height, width, config.crop_scale, config.crop_ratio, draws)
    return _largest_box(height, width, config.crop_ratio) if box is None else box


def fitting_box(
    height: int, width: int, areas: tuple[float, float], ratios: tuple[float, float], draws: BoxDraws
) -> Box | None:
    """The first attempted box that fits into the image; None if none does.

    The fraction of the area is uniform in ``areas``; the logarithm of width / height is uniform between the logarithms of
    ``ratios``, so that wide and narrow boxes are equally likely.
    """
    smallest, largest = areas
    narrowest, widest = (math.log(ratio) for ratio in ratios)
    # A loop, since the first attempt mostly fits: computing all attempts at once in numpy costs 18 us more per image.
    for area_draw, ratio_draw in draws.attempts:
        area = height * width * (smallest + (largest - smallest) * area_draw)
        ratio = math.exp(narrowest + (widest - narrowest) * ratio_draw)
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            return _placed(height, width, box_height, box_width, draws)
    return None


def jittered_box(height: int, width: int, size: int, shorts: tuple[int, int], draws: BoxDraws) -> Box:
    """The box in the original image of a random ``size``-pixel crop after the short side was scaled to a random length.

    Simonyan & Zisserman 2015, section 3.1; each integer length in ``shorts`` (smallest, largest) is equally likely.
    """
    shortest, longest = shorts
    short = shortest + int(draws.attempts[0][0] * (longest - shortest + 1))
    side = max(1, round(min(height, width) * size / short))
    return _placed(height, width, side, side, draws)


def _placed(height: int, width: int, box_height: int, box_width: int, draws: BoxDraws) -> Box:
    """A box of a size at the drawn position."""
    top, left = int(draws.top * (height - box_height + 1)), int(draws.left * (width - box_width + 1))
    return Box(top, left, box_height, box_width)


def _largest_box(height: int, width: int, allowed: tuple[float, float]) -> Box:
    """The image with its long side cropped to the nearest allowed ratio of width to height."""
    ratio = min(max(width / height, allowed[0]), allowed[1])
    box_height = max(1, min(height, round(width / ratio)))
    box_width = max(1, min(width, round(height * ratio)))
    return centre_box(height, width, box_height, box_width)
