"""From images of any size to squares of one size: which part of an image is seen, and at which scale."""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig
from vggdist.data.arrays import ArraySource, Images, Source
from vggdist.data.crop_boxes import Box, box_draws, centre_box, five_boxes, training_box
from vggdist.data.decode import Photograph
from vggdist.data.encoded import EncodedSource
from vggdist.data.randomness import Draws

cv2.setNumThreads(0)  # the loader's threads already take a core each

_ANTIALIASED_FROM = 2  # up to there bilinear weights leave out no pixel
_MOST_PIXELS = 2**27
"""Of a scaled image: 384 MiB in RGB, and a picture a thousand times as long as it is high at a short side of 366."""


def short_side(config: AugmentConfig, image_size: int) -> int:
    """The short side in pixels to which images are scaled before their centre is cropped.

    Raises:
        RequestError: it is smaller than the crop.
    """
    for key, short in (("resize", config.resize), ("scale_jitter", config.scale_jitter and config.scale_jitter[0])):
        if short is not None and short < image_size:
            raise RequestError(
                f"augment.{key} scales the short side to {short} pixels, too few to crop "
                f"data.image_size {image_size}; set augment.{key} to {image_size} or more, or to null"
            )
    return config.resize or image_size


def frame_crops(source: Images, samples: np.ndarray, short: int, size: int, crops: int = 1) -> np.ndarray:
    """Scale each image's short side and crop its centre, or several parts; one image at once is held at its full size.

    Args:
        samples: ``(B,)`` indices.
        short: side in pixels after scaling, not below ``size``.
        size: side in pixels of the crops, S.
        crops: 1 for the centre, 5 for this and the corners, 10 for these and their mirror images.

    Returns:
        ``(B * crops, S, S, C) uint8``, those of a sample together, not shared with the source.

    Raises:
        DamagedImageError: an image does not decode.
        RequestError: an image is so narrow that it would be scaled to more than ``_MOST_PIXELS``.
    """
    if crops == 1 and isinstance(source, ArraySource):
        height, width, _ = source.image_shape
        if min(height, width) == short:
            return centre_box(height, width, size, size).of(source.images)[samples]
    framed = np.empty((len(samples), crops, size, size, source.channels), np.uint8)
    for slot, sample in enumerate(samples.tolist()):
        image = source.read(sample)
        if max(image.shape[:2]) * short**2 > _MOST_PIXELS * min(image.shape[:2]):
            raise RequestError(
                f"image {source.name(sample)} has {image.shape[1]} x {image.shape[0]} pixels: too narrow to be scaled to a "
                f"short side of {short}; crop it, or remove it"
            )
        image = scale(image, short)
        for place, box in enumerate(five_boxes(image.shape[0], image.shape[1], size)[:crops]):
            framed[slot, place] = box.of(image)
    if crops == 10:
        framed[:, 5:] = framed[:, :5, :, ::-1]
    return framed.reshape(-1, *framed.shape[2:])


def frame_random(source: Source, config: AugmentConfig, framed: np.ndarray, draws: Draws) -> np.ndarray:
    """Crop a random part of each image and scale it: a random resized crop, or the paper's scale jitter.

    Args:
        framed: ``(B, S, S, C) uint8`` to write to.

    Returns:
        ``framed``.
    """
    drawn, size = box_draws(draws, "crop"), framed.shape[1]
    for slot, sample in enumerate(draws.samples.tolist()):
        if isinstance(source, EncodedSource):
            photograph = source.photograph(sample)
            box = training_box(photograph.height, photograph.width, size, config, drawn[slot])
            crop_photograph(photograph, box, framed[slot])
        else:
            image = source.read(sample)
            box = training_box(image.shape[0], image.shape[1], size, config, drawn[slot])
            framed[slot] = resize(box.of(image), size, size)
    return framed


def crop_photograph(photograph: Photograph, box: Box, out: np.ndarray) -> None:
    """Decode no more than a crop needs, and scale it to ``out``, ``(S, S, C) uint8``.

    The image is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size at which the crop still has S pixels. What then
    remains is bilinear, with antialiasing along a side that shrinks by more than 2. A crop that is not taken from the whole
    size is shifted by at most one pixel of the original.
    """
    size, channels = out.shape[1:]
    image = photograph.pixels(channels, divisor_for(box, size), above=box.top + box.height)
    part = box.scaled(image.shape[0] / photograph.height, image.shape[1] / photograph.width).of(image)
    cv2.resize(_antialiased(part, size), (size, size), dst=out, interpolation=cv2.INTER_LINEAR)


def _antialiased(image: np.ndarray, size: int) -> np.ndarray:
    """An image of which bilinear weights leave out nothing when it is scaled to ``size`` pixels a side.

    To shrink by s takes a triangle of half-width s, whose variance is s²/6; bilinear weights have the one of s = 1, and a
    Gaussian supplies the rest. OpenCV's own way, INTER_AREA, takes three times as long.
    """
    shrinks = [side / size for side in image.shape[1::-1]]
    if max(shrinks) <= _ANTIALIASED_FROM:
        return image
    sigmas = [math.sqrt((s * s - 1) / 6) if s > _ANTIALIASED_FROM else 0 for s in shrinks]
    widths = [2 * math.ceil(2 * sigma) + 1 for sigma in sigmas]  # two deviations on each side; 1 leaves a side as it is
    return np.asarray(cv2.GaussianBlur(image, widths, sigmaX=sigmas[0], sigmaY=sigmas[1])).reshape(image.shape)


def divisor_for(box: Box, size: int) -> int:
    """The largest of 8, 4, 2 and 1 by which a crop can be divided and still have ``size`` pixels on each side."""
    return next((divisor for divisor in (8, 4, 2) if min(box.height, box.width) >= divisor * size), 1)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale ``(H, W, C) uint8`` to ``(height, width, C)``: bilinear, with antialiasing where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    grey = image.shape[2] == 1
    scaled = Image.fromarray(image[:, :, 0] if grey else image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled).reshape(height, width, image.shape[2])


def scale(image: np.ndarray, short: int) -> np.ndarray:
    """Scale the short side of ``(H, W, C) uint8`` to ``short`` pixels."""
    height, width, _ = image.shape
    side = min(height, width)
    # The long side rounds down, as in torchvision, so that its published weights see what they were trained for.
    return resize(image, height * short // side, width * short // side)
