"""Mean and deviation of a data set's pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.data.sources import ArraySource, Source

_CHUNK = 1024  # images counted at once: enough to forget Python's cost, few enough to stay small


def statistics(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of all images, on a scale from 0 to 1.

    They come from counts of the 256 values, in integers, so they are exact and the same on every rank.

    Raises:
        RequestError: a channel has one value everywhere, so nothing can be divided by its deviation.
        DamagedImageError: an image does not decode.
    """
    counts = np.zeros((source.channels, 256), np.int64)
    for pixels in _pixels(source):
        for channel, counted in enumerate(counts):
            counted += np.bincount(pixels[..., channel].ravel(), minlength=256)
    moments = [_moments(counted.tolist()) for counted in counts]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _pixels(source: Source) -> Iterator[np.ndarray]:
    """All images of a source, ``(..., C) uint8``, few at a time."""
    if isinstance(source, ArraySource):
        yield from (source.images[start : start + _CHUNK] for start in range(0, len(source), _CHUNK))
    else:
        yield from (source.read(index) for index in range(len(source)))


def _moments(counted: list[int]) -> tuple[float, float]:
    """Mean and standard deviation on a scale from 0 to 1 from the number of pixels of each value."""
    pixels = sum(counted)
    total = sum(value * count for value, count in enumerate(counted))
    squares = sum(value * value * count for value, count in enumerate(counted))
    spread = pixels * squares - total * total  # Python's integers: neither overflow nor cancellation
    if spread == 0:
        raise RequestError(
            "a channel of the training images has the same value in every pixel, so augment.normalize "
            "computed has nothing to divide by; use published or none"
        )
    return total / (255 * pixels), math.sqrt(spread) / (255 * pixels)
