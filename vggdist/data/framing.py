"""From images of any size to squares of one size: which part of an image is seen, and at which scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.schema import AugmentConfig
from vggdist.data.decode import Photograph
from vggdist.data.encoded import EncodedSource
from vggdist.data.randomness import Draws
from vggdist.data.sources import ArraySource, Source

cv2.setNumThreads(0)  # the loader's threads already take a core each

_ANTIALIASED_FROM = 2  # below, bilinear weights leave out no pixel, and averaging would cost 0.4 ms more
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


class CropDraws(NamedTuple):
    """The numbers in [0, 1) that decide the random crop of one sample."""

    attempts: list[list[float]]
    """For each attempt, one number for the area and one for the ratio."""
    top: float
    left: float


def short_side(config: AugmentConfig, image_size: int) -> int:
    """The short side in pixels to which images are scaled before their centre is cropped.

    Raises:
        RequestError: it is smaller than the crop.
    """
    if config.resize is not None and config.resize < image_size:
        raise RequestError(
            f"augment.resize scales the short side to {config.resize} pixels, too few to crop "
            f"data.image_size {image_size}; set augment.resize to {image_size} or more, or to null"
        )
    return config.resize or image_size


def frame_centre(source: Source, samples: np.ndarray, short: int, size: int) -> np.ndarray:
    """Scale each image's short side and crop the centre.

    Args:
        samples: ``(B,)`` indices.
        short: side in pixels after scaling, not below ``size``.
        size: side in pixels of the crop, S.

    Returns:
        ``(B, S, S, C) uint8``, not shared with the source.
    """
    if isinstance(source, ArraySource):
        height, width, _ = source.image_shape
        if min(height, width) == short:
            return _centre(height, width, size, size).of(source.images)[samples]
    return _each(source, samples, size, lambda _, image: centre_crop(image, short, size))


def frame_random(source: Source, config: AugmentConfig, framed: np.ndarray, draws: Draws) -> np.ndarray:
    """Crop a random part of each image and scale it (Szegedy et al. 2015, section 6, with torchvision's ten attempts).

    Args:
        framed: ``(B, S, S, C) uint8`` to write to.

    Returns:
        ``framed``.
    """
    drawn, size = crop_draws(draws), framed.shape[1]
    for slot, sample in enumerate(draws.samples.tolist()):
        if isinstance(source, EncodedSource):
            photograph = source.photograph(sample)
            box = random_box(photograph.height, photograph.width, config, drawn[slot])
            crop_photograph(photograph, box, framed[slot])
        else:
            image = source.read(sample)
            box = random_box(image.shape[0], image.shape[1], config, drawn[slot])
            framed[slot] = resize(box.of(image), size, size)
    return framed


def crop_photograph(photograph: Photograph, box: Box, out: np.ndarray) -> None:
    """Decode no more than a crop needs, and scale it to ``out``, ``(S, S, C) uint8``.

    The image is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size at which the crop still has S pixels. What then
    remains is bilinear, with antialiasing where a side shrinks by more than 2. A crop that is not taken from the whole size
    is shifted by at most one pixel of the original.
    """
    size, channels = out.shape[1:]
    image = photograph.pixels(channels, divisor_for(box, size), scratch=True)
    part = box.scaled(image.shape[0] / photograph.height, image.shape[1] / photograph.width).of(image)
    shrinks = max(part.shape[:2]) > _ANTIALIASED_FROM * size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(part, (size, size), dst=out, interpolation=method)


def divisor_for(box: Box, size: int) -> int:
    """The largest of 8, 4, 2 and 1 by which a crop can be divided and still have ``size`` pixels on each side."""
    return next((divisor for divisor in (8, 4, 2) if min(box.height, box.width) >= divisor * size), 1)


def _each(source: Source, samples: np.ndarray, size: int, frame: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Read and frame one image after the other, so that only one is held at its full size."""
    framed = np.empty((len(samples), size, size, source.channels), np.uint8)
    for slot, sample in enumerate(samples.tolist()):
        framed[slot] = frame(slot, source.read(sample))
    return framed


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale ``(H, W, C) uint8`` to ``(height, width, C)``: bilinear, with antialiasing where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    grey = image.shape[2] == 1
    scaled = Image.fromarray(image[:, :, 0] if grey else image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled).reshape(height, width, image.shape[2])


def centre_crop(image: np.ndarray, short: int, size: int) -> np.ndarray:
    """Scale the short side of ``(H, W, C) uint8`` to ``short`` and crop ``(size, size, C)`` in the centre."""
    height, width, _ = image.shape
    side = min(height, width)
    # The long side rounds down, as in torchvision, so that its published weights see what they were trained for.
    height, width = height * short // side, width * short // side
    return _centre(height, width, size, size).of(resize(image, height, width))


def _centre(height: int, width: int, box_height: int, box_width: int) -> Box:
    """A box in the middle of an image; torchvision's rounding of halves."""
    return Box(round((height - box_height) / 2), round((width - box_width) / 2), box_height, box_width)


def crop_draws(draws: Draws) -> list[CropDraws]:
    """The numbers of each of ``(B,)`` samples."""
    attempts = [f"crop {what} {attempt}" for attempt in range(ATTEMPTS) for what in ("area", "ratio")]
    drawn = draws.uniforms([*attempts, "crop top", "crop left"])
    by_sample = drawn[:-2].T.reshape(-1, ATTEMPTS, 2).tolist(), drawn[-2].tolist(), drawn[-1].tolist()
    return [CropDraws(*numbers) for numbers in zip(*by_sample, strict=True)]


def random_box(height: int, width: int, config: AugmentConfig, draws: CropDraws) -> Box:
    """The first attempted crop that fits into an image, else the largest central one whose ratio is allowed.

    The share of the area is uniform in ``crop_scale``; the logarithm of width / height is uniform in that of
    ``crop_ratio``, so that an image is as often widened as narrowed.
    """
    smallest, largest = config.crop_scale
    narrowest, widest = (math.log(ratio) for ratio in config.crop_ratio)
    # One attempt after the other, since the first mostly fits: all at once in numpy costs 18 us more for each image.
    for area_draw, ratio_draw in draws.attempts:
        area = height * width * (smallest + (largest - smallest) * area_draw)
        ratio = math.exp(narrowest + (widest - narrowest) * ratio_draw)
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            top, left = int(draws.top * (height - box_height + 1)), int(draws.left * (width - box_width + 1))
            return Box(top, left, box_height, box_width)
    return _largest_box(height, width, config.crop_ratio)


def _largest_box(height: int, width: int, allowed: tuple[float, float]) -> Box:
    """The whole image, its long side cut to the nearest allowed ratio of width to height."""
    ratio = min(max(width / height, allowed[0]), allowed[1])
    box_height = max(1, min(height, round(width / ratio)))
    box_width = max(1, min(width, round(height * ratio)))
    return _centre(height, width, box_height, box_width)
