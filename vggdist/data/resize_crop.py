"""Resizing and cropping of images of any size to squares of one size."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig
from vggdist.data.arrays import ArraySource, Images, Source
from vggdist.data.crop_boxes import Box, box_draws, centre_box, five_boxes, training_box
from vggdist.data.decode import LazyImage
from vggdist.data.encoded import EncodedSource
from vggdist.data.randomness import Draws
from vggdist.data.shift_flip import with_views

cv2.setNumThreads(0)  # the loader's threads already use one core each

_ANTIALIAS_ABOVE = 2  # reduction factor; up to it, bilinear interpolation uses every pixel
_MAX_PIXELS = 2**27
"""Limit of a scaled image: 384 MiB in RGB, for instance an aspect ratio of 1,000 at a short side of 366 pixels."""


def short_side(config: AugmentConfig, image_size: int) -> int:
    """The short side in pixels to which images are scaled before their centre is cropped.

    Raises:
        RequestError: it is smaller than the crop.
    """
    for key, short in (("resize", config.resize), ("scale_jitter", config.scale_jitter and config.scale_jitter[0])):
        if short is not None and short < image_size:
            raise RequestError(
                f"augment.{key} scales the short side to {short} pixels, less than "
                f"data.image_size {image_size}; set augment.{key} to {image_size} or more, or to null"
            )
    return config.resize or image_size


def fixed_crops(
    source: Images, samples: NDArray[np.int64], short: int, size: int, crops: int = 1, views: int = 1
) -> NDArray[np.uint8]:
    """Scale each image by its short side and take its centre crop, or several crops; one image at a time is in memory.

    Args:
        samples: ``(B,)`` indices.
        short: short side in pixels after scaling, at least ``size``.
        size: side of the crops in pixels, S.
        crops: 1: the centre; 5: centre and corners; 10: these and their mirror images.
        views: of each crop, see :func:`~vggdist.data.shift_flip.with_views`.

    Returns:
        ``(B * crops * views, S, S, C) uint8``, those of a sample together; a copy.

    Raises:
        DamagedImageError: an image does not decode.
        RequestError: the scaled image would have more than ``_MAX_PIXELS``.
    """
    if crops == 1 and isinstance(source, ArraySource):
        height, width, _ = source.image_shape
        if min(height, width) == short:
            return with_views(centre_box(height, width, size, size).of(source.images)[samples], views)
    cropped = np.empty((len(samples), crops, size, size, source.channels), np.uint8)
    for slot, sample in enumerate(samples.tolist()):
        image = source.read(sample)
        if max(image.shape[:2]) * short**2 > _MAX_PIXELS * min(image.shape[:2]):
            raise RequestError(
                f"image {source.name(sample)} has {image.shape[1]} x {image.shape[0]} pixels: too narrow to be scaled to a "
                f"short side of {short}; crop it, or remove it"
            )
        image = scale(image, short)
        for place, box in enumerate(five_boxes(image.shape[0], image.shape[1], size)[:crops]):
            cropped[slot, place] = box.of(image)
    if crops == 10:
        cropped[:, 5:] = cropped[:, :5, :, ::-1]
    return with_views(cropped.reshape(-1, *cropped.shape[2:]), views)


def random_crops(source: Source, config: AugmentConfig, out: NDArray[np.uint8], draws: Draws) -> NDArray[np.uint8]:
    """Crop each image at random and scale it: random resized crop, or scale jitter.

    Args:
        out: ``(B, S, S, C) uint8``, overwritten.

    Returns:
        ``out``.
    """
    drawn, size = box_draws(draws, "crop"), out.shape[1]
    for slot, sample in enumerate(draws.samples.tolist()):
        if isinstance(source, EncodedSource):
            encoded = source.open(sample)
            box = training_box(encoded.height, encoded.width, size, config, drawn[slot])
            decode_crop(encoded, box, out[slot])
        else:
            image = source.read(sample)
            box = training_box(image.shape[0], image.shape[1], size, config, drawn[slot])
            out[slot] = resize(box.of(image), size, size)
    return out


def decode_crop(image: LazyImage, box: Box, out: NDArray[np.uint8]) -> None:
    """Decode only what a crop needs, and scale it to ``out``, ``(S, S, C) uint8``.

    The image is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size at which the crop has at least S pixels per side.
    The remaining scaling is bilinear, with antialiasing along sides that are reduced by more than 2. If the image is decoded
    at a reduced size, the crop is shifted by at most one pixel of the original.
    """
    size, channels = out.shape[1:]
    pixels = image.pixels(channels, divisor_for(box, size), above=box.top + box.height)
    part = box.scaled(pixels.shape[0] / image.height, pixels.shape[1] / image.width).of(pixels)
    cv2.resize(_antialiased(part, size), (size, size), dst=out, interpolation=cv2.INTER_LINEAR)


def _antialiased(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Blur an image so that bilinear scaling to ``size`` pixels per side has no aliasing.

    Antialiased reduction by s uses a triangle kernel of half-width s, whose variance is s²/6. Bilinear interpolation has the
    variance of s = 1; a Gaussian adds the difference. OpenCV's INTER_AREA takes three times as long.
    """
    factors = [side / size for side in image.shape[1::-1]]
    if max(factors) <= _ANTIALIAS_ABOVE:
        return image
    sigmas = [math.sqrt((s * s - 1) / 6) if s > _ANTIALIAS_ABOVE else 0 for s in factors]
    widths = [2 * math.ceil(2 * sigma) + 1 for sigma in sigmas]  # two sigmas on each side; 1: no blur along this side
    return np.asarray(cv2.GaussianBlur(image, widths, sigmaX=sigmas[0], sigmaY=sigmas[1]), np.uint8).reshape(image.shape)


def divisor_for(box: Box, size: int) -> int:
    """The largest of 8, 4, 2 and 1 by which a crop can be reduced to at least ``size`` pixels per side."""
    return next((divisor for divisor in (8, 4, 2) if min(box.height, box.width) >= divisor * size), 1)


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale ``(H, W, C) uint8`` to ``(height, width, C)``: bilinear, with antialiasing when it is reduced."""
    if image.shape[:2] == (height, width):
        return image
    grey = image.shape[2] == 1
    scaled = Image.fromarray(image[:, :, 0] if grey else image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled).reshape(height, width, image.shape[2])


def scale(image: NDArray[np.uint8], short: int) -> NDArray[np.uint8]:
    """Scale the short side of ``(H, W, C) uint8`` to ``short`` pixels."""
    height, width, _ = image.shape
    side = min(height, width)
    # The long side is rounded down as in torchvision, so that its published weights get the input that they were trained on.
    return resize(image, height * short // side, width * short // side)


def scaled_down(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Square images ``(B, S, S, C)`` as ``(B, side, side, C)``; each pixel is the mean over its area."""
    scaled = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(scaled).reshape(len(images), side, side, images.shape[3])
