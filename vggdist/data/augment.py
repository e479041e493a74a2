"""Batch assembly: images are resized, cropped and augmented as a pure function of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig
from vggdist.data.arrays import Source
from vggdist.data.colour import brightness, contrast, lighting, saturation
from vggdist.data.mixup import mix
from vggdist.data.randaugment import randaugment
from vggdist.data.random_erasing import cutout, erase
from vggdist.data.randomness import Draws
from vggdist.data.resize_crop import fixed_crops, random_crops, scaled_down, short_side
from vggdist.data.shift_flip import flip, pad_crop


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch on the host."""

    images: NDArray[np.uint8]
    """``(B, S, S, C) uint8``; for evaluation ``(B * crops * views, S, S, C)``, those of a sample together."""
    labels: NDArray[np.int32]
    """``(B,) int32``."""
    partners: NDArray[np.int32]
    """``(B,) int32`` labels of the samples that are mixed in; equal to ``labels`` without mixing."""
    weights: NDArray[np.float32]
    """``(B,) float32`` weight of ``labels`` in the target, the rest is that of ``partners``; 1 without mixing."""
    mask: NDArray[np.float32]
    """``(B,) float32``, 0 for padding."""
    samples: NDArray[np.int64]
    """``(B,) int64`` indices in the data set."""


_JITTERS = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
"""Colour jitter, by setting of :class:`AugmentConfig`."""


def _pad_crop(images: NDArray[np.uint8], config: AugmentConfig, draws: Draws, fill: NDArray[np.uint8]) -> NDArray[np.uint8]:
    tops, lefts = (draws.integers(f"pad crop {side}", 2 * config.pad_crop + 1) for side in ("top", "left"))
    return pad_crop(images, config.pad_crop, tops, lefts, config.pad_mode)


def _flip(images: NDArray[np.uint8], config: AugmentConfig, draws: Draws, fill: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if config.flip != "alternating":
        return flip(images, draws.uniform("flip") < 0.5)
    first = replace(draws, epoch=0).uniform("flip") < 0.5  # the same in all epochs
    return flip(images, first ^ (draws.epoch % 2 == 1))


def _randaugment(images: NDArray[np.uint8], config: AugmentConfig, draws: Draws, fill: NDArray[np.uint8]) -> NDArray[np.uint8]:
    assert config.randaugment is not None
    return randaugment(images, *config.randaugment, draws)


def _jitter(images: NDArray[np.uint8], config: AugmentConfig, draws: Draws, fill: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour jitter, in place; image by image, so that each stays in the core's cache."""
    strengths = {"brightness": config.brightness, "contrast": config.contrast, "saturation": config.saturation}
    factors = {name: 1 + strength * (2 * draws.uniform(name) - 1) for name, strength in strengths.items() if strength}
    for slot in range(len(images)):
        image = images[slot : slot + 1]
        for name, drawn in factors.items():
            _JITTERS[name](image, drawn[slot : slot + 1], out=image)
    return images


def _lighting(images: NDArray[np.uint8], config: AugmentConfig, draws: Draws, fill: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shares = config.lighting * draws.normals([f"lighting {component}" for component in range(3)])
    return lighting(images, shares.T)


def _cutout(images: NDArray[np.uint8], config: AugmentConfig, draws: Draws, fill: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (draws.integers(f"cutout {axis}", images.shape[1]) for axis in ("row", "column"))
    return cutout(images, config.cutout, rows, columns, fill)


def _erasing(images: NDArray[np.uint8], config: AugmentConfig, draws: Draws, fill: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return erase(images, config.erasing, fill, draws)


_Augmentation = Callable[[NDArray[np.uint8], AugmentConfig, Draws, NDArray[np.uint8]], NDArray[np.uint8]]
AUGMENTATIONS: Mapping[tuple[str, ...], _Augmentation] = {
    ("pad_crop",): _pad_crop,
    ("flip",): _flip,
    ("randaugment",): _randaugment,
    ("brightness", "contrast", "saturation"): _jitter,
    ("lighting",): _lighting,
    ("cutout",): _cutout,
    ("erasing",): _erasing,
}
"""Augmentations of cropped images by their settings, in the order in which they run; each runs if a setting of it is on.

Each takes ``(B, S, S, C) uint8`` images, which it may overwrite, the settings, random draws from its own streams, and the
``(C,)`` mean colour; it returns images of the same shape.
"""


class TrainingView:
    """Training batches of a source, augmented differently in each epoch."""

    def __init__(self, source: Source, config: AugmentConfig, image_size: int, seed: int, fill: Sequence[int]) -> None:
        """Configure the batches.

        Args:
            image_size: side of the images in pixels, S.
            seed: determines all random numbers, with epoch and sample.
            fill: ``(C,)`` mean colour from 0 to 255, for erased pixels.

        Raises:
            RequestError: ``augment.resize`` or ``augment.scale_jitter`` is smaller than ``image_size``, a side in
                ``augment.progressive`` is larger, ``augment.lighting`` is set for grey images, or ``augment.pad_crop``
                reflects more than the image.
        """
        if config.lighting and source.channels != 3:
            raise RequestError(
                "augment.lighting needs colour images, but these are grey; set augment.lighting to 0 or data.channels to 3"
            )
        if config.pad_mode == "reflect" and config.pad_crop >= image_size:
            raise RequestError(
                f"augment.pad_mode reflect requires augment.pad_crop below data.image_size {image_size}, but it is "
                f"{config.pad_crop}; lower it, or set augment.pad_mode to constant"
            )
        if largest := max((side for _, side in config.progressive if side > image_size), default=None):
            raise RequestError(f"augment.progressive has side {largest}; it must be at most data.image_size {image_size}")
        self._source, self._config, self._size, self._seed = source, config, image_size, seed
        self._fill = np.asarray(fill, np.uint8)
        self._short_side = short_side(config, image_size)

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, epoch: int, samples: NDArray[np.int64], mask: NDArray[np.float32]) -> Batch:
        """The batch of ``(B,)`` samples in an epoch. Thread-safe.

        The augmentation of a sample does not depend on the other samples of the batch.

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
        return Batch(images, labels[samples], labels[partners], weights, mask, samples)

    def _augmented(self, draws: Draws) -> NDArray[np.uint8]:
        """``(B, S, S, C) uint8`` before samples are mixed."""
        config, size = self._config, self._size
        if config.random_resized_crop or config.scale_jitter:
            out = np.empty((len(draws.samples), size, size, self._source.channels), np.uint8)
            images = random_crops(self._source, config, out, draws)
        else:
            images = fixed_crops(self._source, draws.samples, self._short_side, size)
        for keys, augmentation in AUGMENTATIONS.items():
            if any(getattr(config, key) for key in keys):
                images = augmentation(images, config, draws, self._fill)
        side = config.side(draws.epoch, size)
        return images if side == size else scaled_down(images, side)


def require_margin(crops: int, resize: int, image_size: int) -> None:
    """Raise ``RequestError`` if several crops are requested of images that are scaled to the size of one crop."""
    if crops > 1 and resize == image_size:
        raise RequestError(
            f"evaluation.crops {crops} needs images larger than data.image_size {image_size}, to which augment.resize scales "
            f"them; train with augment.resize above {image_size}, or set evaluation.crops to 1"
        )


class EvaluationView:
    """Evaluation batches of a source: resized and cropped, without randomness."""

    def __init__(self, source: Source, resize: int, image_size: int, crops: int = 1, views: int = 1) -> None:
        """Configure the batches.

        Args:
            resize: short side in pixels to which images are scaled, at least ``image_size``.
            image_size: side of the square crops in pixels.
            crops: crops of each image: 1, 5 or 10.
            views: views of each crop: 1, 2 or 6.

        Raises:
            RequestError: several crops are requested, but ``resize`` equals ``image_size``.
        """
        require_margin(crops, resize, image_size)
        self.source, self.inputs_per_image = source, crops * views
        self._short_side, self._size, self._crops, self._views = resize, image_size, crops, views

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, samples: NDArray[np.int64], mask: NDArray[np.float32]) -> Batch:
        """The batch of ``(B,)`` samples; ``DamagedImageError`` if an image does not decode."""
        images = fixed_crops(self.source, samples, self._short_side, self._size, self._crops, self._views)
        labels = self.source.labels[samples]
        return Batch(images, labels, labels, np.ones(len(samples), np.float32), mask, samples)
