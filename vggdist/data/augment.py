"""Samples to batches: framed, augmented as a pure function of (seed, epoch, sample), and ready for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig
from vggdist.data.arrays import Source
from vggdist.data.buffer_pool import BufferPool
from vggdist.data.colour import brightness, contrast, lighting, saturation
from vggdist.data.mixup import mix
from vggdist.data.randaugment import randaugment
from vggdist.data.random_erasing import cutout, erase
from vggdist.data.randomness import Draws
from vggdist.data.resize_crop import frame_crops, frame_random, short_side
from vggdist.data.shift_flip import flip, pad_crop


@dataclass(frozen=True, eq=False)
class Batch:
    """What travels to the device."""

    images: np.ndarray
    """``(B, S, S, C) uint8``; to be measured by several crops ``(B * crops, S, S, C)``, those of a sample together."""
    labels: np.ndarray
    """``(B,) int32``."""
    partners: np.ndarray
    """``(B,) int32`` labels of the samples mixed in; ``labels`` where none is."""
    weights: np.ndarray
    """``(B,) float32`` share of ``labels`` in the target, the rest is of ``partners``; 1 where none is."""
    mask: np.ndarray
    """``(B,) float32``, 0 for slots that only fill up the batch."""
    samples: np.ndarray
    """``(B,) int64`` indices in the data set."""


def _pad_crop(images: np.ndarray, config: AugmentConfig, draws: Draws, fill: np.ndarray) -> np.ndarray:
    tops, lefts = (draws.integers(f"pad crop {side}", 2 * config.pad_crop + 1) for side in ("top", "left"))
    return pad_crop(images, config.pad_crop, tops, lefts)


def _flip(images: np.ndarray, config: AugmentConfig, draws: Draws, fill: np.ndarray) -> np.ndarray:
    return flip(images, draws.uniform("flip") < 0.5)


def _randaugment(images: np.ndarray, config: AugmentConfig, draws: Draws, fill: np.ndarray) -> np.ndarray:
    assert config.randaugment is not None
    return randaugment(images, *config.randaugment, draws)


def _jitter(images: np.ndarray, config: AugmentConfig, draws: Draws, fill: np.ndarray) -> np.ndarray:
    """Colour jitter, in place: image by image, while it lies in the core's cache."""
    factors = {
        change: 1 + strength * (2 * draws.uniform(change.__name__) - 1)
        for change in (brightness, contrast, saturation)
        if (strength := getattr(config, change.__name__))
    }
    for place in range(len(images)):
        image = images[place : place + 1]
        for change, drawn in factors.items():
            change(image, drawn[place : place + 1], out=image)
    return images


def _lighting(images: np.ndarray, config: AugmentConfig, draws: Draws, fill: np.ndarray) -> np.ndarray:
    shares = config.lighting * draws.normals([f"lighting {component}" for component in range(3)])
    return lighting(images, shares.T)


def _cutout(images: np.ndarray, config: AugmentConfig, draws: Draws, fill: np.ndarray) -> np.ndarray:
    rows, columns = (draws.integers(f"cutout {axis}", images.shape[1]) for axis in ("row", "column"))
    return cutout(images, config.cutout, rows, columns, fill)


def _erasing(images: np.ndarray, config: AugmentConfig, draws: Draws, fill: np.ndarray) -> np.ndarray:
    return erase(images, config.erasing, fill, draws)


CHANGES: Mapping[tuple[str, ...], Callable[[np.ndarray, AugmentConfig, Draws, np.ndarray], np.ndarray]] = {
    ("pad_crop",): _pad_crop,
    ("flip",): _flip,
    ("randaugment",): _randaugment,
    ("brightness", "contrast", "saturation"): _jitter,
    ("lighting",): _lighting,
    ("cutout",): _cutout,
    ("erasing",): _erasing,
}
"""What changes framed images, in this order, where any of its settings is on.

Each takes ``(B, S, S, C) uint8`` images, which it may overwrite, the settings, draws by names of its own, and the ``(C,)``
mean colour; it returns images of the same shape.
"""


class TrainingView:
    """A source as training sees it: each epoch shows another version of each sample."""

    def __init__(self, source: Source, config: AugmentConfig, image_size: int, seed: int, fill: Sequence[int]) -> None:
        """Choose how samples are seen.

        Args:
            image_size: side of the images in pixels, S.
            seed: with epoch and sample it decides everything random.
            fill: ``(C,)`` mean colour from 0 to 255, for what is erased.

        Raises:
            RequestError: ``augment.resize`` or ``augment.scale_jitter`` leaves less than ``image_size``, or
                ``augment.lighting`` is asked for grey images.
        """
        if config.lighting and source.channels != 3:
            raise RequestError(
                "augment.lighting shifts colours, and these images are grey; set augment.lighting to 0 or data.channels to 3"
            )
        self._source, self._config, self._size, self._seed = source, config, image_size, seed
        self._fill = np.asarray(fill, np.uint8)
        self._short_side = short_side(config, image_size)
        self._pool = BufferPool()

    def __len__(self) -> int:
        return len(self._source)

    def give_back(self, batch: Batch) -> None:
        """Say that nobody holds the batch's images any more; a later batch may overwrite them."""
        self._pool.give(batch.images)

    def batch(self, epoch: int, samples: np.ndarray, mask: np.ndarray) -> Batch:
        """The batch of ``(B,)`` samples at an epoch; safe from several threads at once.

        What becomes of a sample does not depend on the others in its batch.

        Raises:
            DamagedImageError: an image does not decode.
        """
        config, labels = self._config, self._source.labels
        draws = Draws(self._seed, epoch, samples)
        images = self._augmented(draws)
        partners, weights = samples, np.ones(len(samples), np.float32)
        if config.mixup or config.cutmix:
            partners = draws.integers("mixup partner", len(self._source))
            others = self._augmented(Draws(self._seed, epoch, partners))
            weights = mix(images, others, config.mixup, config.cutmix, draws)
            self._pool.give(others)
        return Batch(images, labels[samples], labels[partners], weights, mask, samples)

    def _augmented(self, draws: Draws) -> np.ndarray:
        """``(B, S, S, C) uint8`` before samples are mixed."""
        config, size = self._config, self._size
        if config.random_resized_crop or config.scale_jitter:
            framed = self._pool.take((len(draws.samples), size, size, self._source.channels))
            images = frame_random(self._source, config, framed, draws)
        else:
            images = frame_crops(self._source, draws.samples, self._short_side, size)
        for keys, change in CHANGES.items():
            if any(getattr(config, key) for key in keys):
                images = change(images, config, draws, self._fill)
        return images


def require_room(crops: int, resize: int, image_size: int) -> None:
    """Refuse several crops of an image that was scaled to the size of one: ``RequestError``."""
    if crops > 1 and resize == image_size:
        raise RequestError(
            f"evaluation.crops {crops} takes corners of what augment.resize leaves around data.image_size {image_size}; "
            f"train with augment.resize above {image_size}, or set evaluation.crops to 1"
        )


class EvaluationView:
    """A source as it is measured: scaled and cropped, always the same."""

    def __init__(self, source: Source, resize: int, image_size: int, crops: int = 1) -> None:
        """Choose how samples are seen.

        Args:
            resize: short side in pixels to which an image is scaled, not below ``image_size``.
            image_size: side of the square crops in pixels.
            crops: of each image: 1, 5 or 10.

        Raises:
            RequestError: the scaled images have nothing around ``image_size`` for several crops.
        """
        require_room(crops, resize, image_size)
        self.source, self.crops = source, crops
        self._short_side, self._size = resize, image_size

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, samples: np.ndarray, mask: np.ndarray) -> Batch:
        """The batch of ``(B,)`` samples; ``DamagedImageError`` where an image does not decode."""
        images = frame_crops(self.source, samples, self._short_side, self._size, self.crops)
        labels = self.source.labels[samples]
        return Batch(images, labels, labels, np.ones(len(samples), np.float32), mask, samples)
