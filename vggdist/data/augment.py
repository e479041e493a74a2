"""Samples to batches: framed, augmented as a pure function of (seed, epoch, sample), and ready for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import betaincinv

from vggdist.config.errors import RequestError
from vggdist.config.schema import AugmentConfig
from vggdist.data.colour import brightness, contrast, saturation
from vggdist.data.framing import frame_centre, frame_random, short_side
from vggdist.data.randomness import uniform
from vggdist.data.ring import Ring
from vggdist.data.sources import ArraySource, Source

_CHUNK = 1024  # images counted at once: enough to forget Python's cost, few enough to stay small


@dataclass(frozen=True, eq=False)
class Batch:
    """What travels to the device."""

    images: np.ndarray
    """``(B, S, S, C) uint8``."""
    labels: np.ndarray
    """``(B,) int32``."""
    partners: np.ndarray
    """``(B,) int32`` labels of the samples mixed in; ``labels`` without mixup."""
    weights: np.ndarray
    """``(B,) float32`` share of ``labels`` in the target, the rest is of ``partners``; 1 without mixup."""
    mask: np.ndarray
    """``(B,) float32``, 0 for slots that only fill up the batch."""
    samples: np.ndarray
    """``(B,) int64`` indices in the data set."""


class TrainingView:
    """A source as training sees it: each epoch shows another version of each sample."""

    def __init__(self, source: Source, config: AugmentConfig, image_size: int, seed: int, fill: Sequence[int]) -> None:
        """Choose how samples are seen.

        Args:
            image_size: side of the images in pixels, S.
            seed: with epoch and sample it decides everything random.
            fill: ``(C,)`` mean colour from 0 to 255, for cutout.

        Raises:
            RequestError: ``augment.resize`` leaves less than ``image_size``.
        """
        self._source, self._config, self._size, self._seed = source, config, image_size, seed
        self._fill = np.asarray(fill, np.uint8)
        self._short_side = short_side(config, image_size)
        self._ring = Ring()

    def __len__(self) -> int:
        return len(self._source)

    def give_back(self, batch: Batch) -> None:
        """Tell that nobody holds the batch's images any more; a later batch may overwrite them."""
        self._ring.give(batch.images)

    def batch(self, epoch: int, samples: np.ndarray, mask: np.ndarray) -> Batch:
        """The batch of ``(B,)`` samples at an epoch; safe from several threads at once.

        What becomes of a sample does not depend on the others in its batch.

        Raises:
            DamagedImageError: an image does not decode.
        """
        config, labels = self._config, self._source.labels
        images = self._augmented(epoch, samples)
        partners, weights = samples, np.ones(len(samples), np.float32)
        if config.mixup:
            partners = self._integers("mixup partner", epoch, samples, len(self._source))
            weights = mixup_weights(config.mixup, self._uniform("mixup weight", epoch, samples))
            mixed_in = self._augmented(epoch, partners)
            mix(images, mixed_in, weights)
            self._ring.give(mixed_in)
        return Batch(images, labels[samples], labels[partners], weights, mask, samples)

    def _augmented(self, epoch: int, samples: np.ndarray) -> np.ndarray:
        """``(B, S, S, C) uint8`` before mixup."""
        config, size = self._config, self._size
        if config.random_resized_crop:
            framed = self._ring.take((len(samples), size, size, self._source.channels))
            images = frame_random(self._source, samples, config, framed, self._seed, epoch)
        else:
            images = frame_centre(self._source, samples, self._short_side, size)
        if config.pad_crop:
            tops, lefts = (
                self._integers(f"pad crop {side}", epoch, samples, 2 * config.pad_crop + 1) for side in ("top", "left")
            )
            images = pad_crop(images, config.pad_crop, tops, lefts)
        if config.flip:
            images = flip(images, self._uniform("flip", epoch, samples) < 0.5)
        for change in (brightness, contrast, saturation):
            if strength := getattr(config, change.__name__):
                factors = 1 + strength * (2 * self._uniform(change.__name__, epoch, samples) - 1)
                images = change(images, factors, out=images)
        if config.cutout:
            rows, columns = (self._integers(f"cutout {axis}", epoch, samples, size) for axis in ("row", "column"))
            images = cutout(images, config.cutout, rows, columns, self._fill)
        return images

    def _uniform(self, stream: str, epoch: int, samples: np.ndarray) -> np.ndarray:
        return uniform(self._seed, epoch, samples, stream)

    def _integers(self, stream: str, epoch: int, samples: np.ndarray, count: int) -> np.ndarray:
        """``(B,) int64`` from 0 to ``count - 1``."""
        return (self._uniform(stream, epoch, samples) * count).astype(np.int64)


class EvaluationView:
    """A source as it is measured: scaled and cropped in the centre, always the same."""

    def __init__(self, source: Source, config: AugmentConfig, image_size: int) -> None:
        """Choose the scale; ``RequestError`` where ``augment.resize`` leaves less than ``image_size``."""
        self._source, self._size, self._short_side = source, image_size, short_side(config, image_size)

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, samples: np.ndarray, mask: np.ndarray) -> Batch:
        """The batch of ``(B,)`` samples; ``DamagedImageError`` where an image does not decode."""
        images = frame_centre(self._source, samples, self._short_side, self._size)
        labels = self._source.labels[samples]
        return Batch(images, labels, labels, np.ones(len(samples), np.float32), mask, samples)


def pad_crop(images: np.ndarray, padding: int, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """Pad each side with black and crop the old size (He et al. 2016, section 4.2).

    Args:
        images: ``(B, H, W, C) uint8``.
        padding: pixels on each side.
        tops, lefts: ``(B,)`` corner of each crop in its padded image, from 0 to twice the padding.
    """
    batch, height, width, channels = images.shape
    padded = np.zeros((batch, height + 2 * padding, width + 2 * padding, channels), np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = images
    # Windows over whole rows of bytes: numpy then copies a row at once instead of a pixel.
    windows = sliding_window_view(padded.reshape(batch, padded.shape[1], -1), (1, height, width * channels))
    return windows[np.arange(batch), tops, lefts * channels].reshape(images.shape)


def flip(images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirror left and right, in place, the images ``(B, H, W, C)`` that ``(B,) bool`` names."""
    for place in np.flatnonzero(mirrored):  # numpy would go through them pixel by pixel, 30 times as long
        cv2.flip(images[place], 1, dst=images[place])
    return images


def mix(images: np.ndarray, others: np.ndarray, weights: np.ndarray) -> None:
    """Set each of ``(B, H, W, C) uint8`` images to ``weight * image + (1 - weight) * other``, rounded; weights ``(B,)``."""
    for image, other, weight in zip(images, others, weights.tolist(), strict=True):
        cv2.addWeighted(image, weight, other, 1 - weight, 0, dst=image)


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


def mixup_weights(alpha: float, draws: np.ndarray) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) (Zhang et al. 2018): ``(B,)`` draws in [0, 1) to ``(B,) float32`` weights."""
    return betaincinv(alpha, alpha, draws).astype(np.float32)


def value_counts(source: Source, part: int = 0, parts: int = 1) -> np.ndarray:
    """How many pixels of each channel have each value, in one of so many equal parts of a source.

    Returns:
        ``(C, 256) int64``; over all parts they sum to those of the whole.

    Raises:
        DamagedImageError: an image does not decode.
    """
    counts = np.zeros((source.channels, 256), np.int64)
    samples = range(len(source) * part // parts, len(source) * (part + 1) // parts)
    for pixels in _pixels(source, samples):
        for channel, counted in enumerate(counts):
            counted += np.bincount(pixels[..., channel].ravel(), minlength=256)
    return counts


def statistics(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on a scale from 0 to 1.

    They come from integers, so they are exact and the same for any number of parts that were counted by themselves.

    Args:
        counts: of all images, as :func:`value_counts` has them.

    Raises:
        RequestError: a channel has one value everywhere, so nothing can be divided by its deviation.
    """
    moments = [_moments(counted) for counted in counts.tolist()]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _pixels(source: Source, samples: range) -> Iterator[np.ndarray]:
    """Some of the images of a source, ``(..., C) uint8``, few at a time."""
    if isinstance(source, ArraySource):
        chunks = (samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK))
        yield from (source.images[chunk.start : chunk.stop] for chunk in chunks)
    else:
        yield from (source.read(index) for index in samples)


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
