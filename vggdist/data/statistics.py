"""Mean and standard deviation of a data set's pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.data.arrays import ArraySource, Source

_CHUNK = 1024  # images counted at once: a compromise between Python's overhead and memory


def value_counts(source: Source, part: int = 0, parts: int = 1) -> NDArray[np.int64]:
    """Histogram of the pixel values of each channel, over slice ``part`` of ``parts`` equal slices of a source.

    Returns:
        ``(C, 256) int64``; the sum over all slices is the histogram of the source.

    Raises:
        DamagedImageError: an image does not decode.
    """
    counts = np.zeros((source.channels, 256), np.int64)
    samples = range(len(source) * part // parts, len(source) * (part + 1) // parts)
    for pixels in _pixels(source, samples):
        for channel, counted in enumerate(counts):
            counted += np.bincount(pixels[..., channel].ravel(), minlength=256)
    return counts


def statistics(counts: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on a scale from 0 to 1.

    They are computed from integers, so they are exact and do not depend on the number of slices.

    Args:
        counts: histogram of all images, see :func:`value_counts`.

    Raises:
        RequestError: a channel has the same value everywhere, so its standard deviation is 0.
    """
    moments = [_moments(counted) for counted in counts.tolist()]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _pixels(source: Source, samples: range) -> Iterator[NDArray[np.uint8]]:
    """The images of a range of samples, ``(..., C) uint8``, in chunks."""
    if isinstance(source, ArraySource):
        chunks = (samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK))
        yield from (source.images[chunk.start : chunk.stop] for chunk in chunks)
    else:
        yield from (source.read(index) for index in samples)


def _moments(counted: list[int]) -> tuple[float, float]:
    """Mean and standard deviation on a scale from 0 to 1 of a histogram."""
    pixels = sum(counted)
    total = sum(value * count for value, count in enumerate(counted))
    squares = sum(value * value * count for value, count in enumerate(counted))
    spread = pixels * squares - total * total  # Python's integers have neither overflow nor cancellation
    if spread == 0:
        raise RequestError(
            "augment.normalize computed: a channel of the training images has the same value in every pixel, so its standard "
            "deviation is 0; use published or none"
        )
    return total / (255 * pixels), math.sqrt(spread) / (255 * pixels)
