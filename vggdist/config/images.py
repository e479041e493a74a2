"""Input data and augmentation: the sections ``data`` and ``augment`` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vggdist.config.data_sets import DATA_SETS
from vggdist.config.errors import require
from vggdist.config.options import Choice, PathText

PadMode = Literal["constant", "reflect"]


@dataclass(frozen=True)
class ReadingConfig:
    """How images are read."""

    threads: int = 2
    """Threads per rank that decode and augment images."""
    prefetch: int = 4
    """Batches that are prepared ahead of the training step."""

    def __post_init__(self) -> None:
        require(self.threads >= 1, "data.threads", self.threads, "at least 1 thread")
        require(self.prefetch >= 1, "data.prefetch", self.prefetch, "at least 1 batch")


@dataclass(frozen=True)
class SourceConfig(ReadingConfig):
    """Which images are read, and how."""

    name: Annotated[str, Choice({name: info.text for name, info in DATA_SETS.items()})] = "digits"
    """Data set."""
    root: PathText = "data"
    """Folder with the data set's files."""
    download: bool = False
    """Download missing files of cifar10, cifar100, mnist or fashion_mnist from their publisher into data.root, once per host,
    and verify their checksums."""
    held_out: float = 0.2
    """Fraction of the samples of each class that becomes the test set if the data set has none (digits, folder, records)."""
    validation: float = 0.0
    """Fraction of the training samples of each class that is held out as validation set. It selects the best checkpoint and
    decides early stopping (train.patience); the test set is then evaluated once, at the end. 0: no validation set, and the
    test set is used instead."""
    damaged: Literal["stop", "skip"] = "stop"
    """Action for an image that does not decode. stop: end the run and name the file. skip: decode every image at the start of
    the run, log the damaged ones and leave them out; result.json has their number."""
    synthetic_samples: int = 1024
    """Training samples of the synthetic data set; its test set has a quarter of this number."""
    synthetic_classes: int = 10
    """Classes of the synthetic data set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.name in DATA_SETS, "data.name", self.name, f"one of {', '.join(DATA_SETS)}")
        require(0 < self.held_out < 1, "data.held_out", self.held_out, "a fraction above 0 and below 1")
        require(0 <= self.validation < 1, "data.validation", self.validation, "a fraction from 0 to below 1")
        require(self.synthetic_samples >= 4, "data.synthetic_samples", self.synthetic_samples, "at least 4")
        require(self.synthetic_classes >= 2, "data.synthetic_classes", self.synthetic_classes, "at least 2")


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Which images are read, and in which batches."""

    image_size: int | None = None
    """Side of the network's square input in pixels. null: the size of the data set's images (folder, records: 224)."""
    channels: Literal[1, 3] | None = None
    """Input channels: 1 is grey, 3 is RGB; images are converted. null: those of the data set (folder, records: 3)."""
    last_batch: Literal["pad", "drop"] = "pad"
    """Treatment of the last, incomplete global batch of an epoch. pad: fill it up with samples that are masked in the loss.
    drop: leave its samples out of this epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_size is None or self.image_size >= 1, "data.image_size", self.image_size, "at least 1 pixel")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images, applied in this order; each is a function of (seed, epoch, sample) only.

    Test images are only resized and cropped (evaluation.crops).
    """

    resize: int | None = None
    """Short side in pixels to which an image is scaled before the centre crop, in evaluation and in training without a random
    crop. null: data.image_size."""
    random_resized_crop: bool = False
    """Crop a random part of the image and resize it to data.image_size (Szegedy et al. 2015)."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Random resized crop: minimum and maximum fraction of the image area."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Random resized crop: minimum and maximum ratio of width to height."""
    scale_jitter: tuple[int, int] | None = None
    """Minimum and maximum short side in pixels: the image is scaled to a random short side, then data.image_size is cropped at
    random (Simonyan & Zisserman 2015, section 3.1: [256, 512]). Excludes augment.random_resized_crop. null: off."""
    pad_crop: int = 0
    """Pixels added on each side before data.image_size is cropped at random (He et al. 2016, section 4.2). 0: off."""
    pad_mode: PadMode = "constant"
    """Pixels that augment.pad_crop adds. constant: black. reflect: the image mirrored at its border, whose pixels are not
    repeated; requires augment.pad_crop below data.image_size."""
    flip: bool | Literal["alternating"] = False
    """Flip images horizontally. true: with probability 1/2. alternating: half of the samples in even epochs and the other half
    in odd epochs, so that two epochs show each sample and its mirror image (Jordan 2024, section 3.6)."""
    randaugment: tuple[int, int] | None = None
    """RandAugment: number of operations and their magnitude from 0 to 30, for instance [2, 9] (Cubuk et al. 2020; the fourteen
    operations and ranges of torchvision). null: off."""
    brightness: float = 0.0
    """Colour jitter: brightness is multiplied by a random factor in [1 - x, 1 + x]."""
    contrast: float = 0.0
    """Colour jitter: contrast is multiplied by a random factor in [1 - x, 1 + x]."""
    saturation: float = 0.0
    """Colour jitter: saturation is multiplied by a random factor in [1 - x, 1 + x]."""
    lighting: float = 0.0
    """Standard deviation of the colour shift along the principal components of ImageNet's colours; RGB only. 0.1 in Krizhevsky
    et al. 2012, section 4.1."""
    cutout: int = 0
    """Side in pixels of a square at a random position that is set to the mean colour (DeVries & Taylor 2017). 0: off."""
    erasing: float = 0.0
    """Probability that a random rectangle of 2 to 33 % of the area is set to the mean colour (Zhong et al. 2017)."""
    progressive: tuple[tuple[int, int], ...] = ()
    """Progressive resizing: pairs of an epoch and a side in pixels. Before that epoch the augmented images are scaled down to
    this side, for instance [[4, 24]]. Requires a model.head that pools (Howard 2018)."""
    mixup: float = 0.0
    """Mixup: alpha of the Beta(alpha, alpha) distribution of the mixing weight (Zhang et al. 2018). 0: off."""
    cutmix: float = 0.0
    """CutMix: alpha of the Beta(alpha, alpha) distribution of the image fraction that is kept (Yun et al. 2019). 0: off. With
    augment.mixup as well, one of the two is chosen for each sample with probability 1/2."""
    normalize: Literal["published", "computed", "none", "raw"] = "published"
    """Mean and standard deviation by which each channel is normalised. published: the data set's published values (ImageNet's
    for folder and records, 0.5 for synthetic). computed: those of the training set. none: pixel values from 0 to 1. raw:
    pixel values from 0 to 255. With model.pretrained, the normalisation of the pretrained weights is used instead."""

    def side(self, epoch: int, image_size: int) -> int:
        """Side in pixels of the training images in an epoch, counted from 0; ``image_size`` is the final one."""
        return next((side for end, side in self.progressive if epoch < end), image_size)

    def __post_init__(self) -> None:
        require(self.resize is None or self.resize >= 1, "augment.resize", self.resize, "at least 1 pixel")
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "augment.crop_scale", self.crop_scale, "0 < smallest <= largest <= 1")
        low, high = self.crop_ratio
        require(0 < low <= high, "augment.crop_ratio", self.crop_ratio, "0 < smallest <= largest")
        if self.scale_jitter is not None:
            smallest, largest = self.scale_jitter
            expected = "1 <= smallest <= largest, and augment.random_resized_crop false"
            allowed = 1 <= smallest <= largest and not self.random_resized_crop
            require(allowed, "augment.scale_jitter", self.scale_jitter, expected)
        if self.randaugment is not None:
            count, magnitude = self.randaugment
            expected = "at least 1 operation and a magnitude from 0 to 30"
            require(count >= 1 and 0 <= magnitude <= 30, "augment.randaugment", self.randaugment, expected)
        epochs = [epoch for epoch, _ in self.progressive]
        expected = "ascending epochs from 1 on, each with a side of at least 1 pixel"
        allowed = epochs == sorted(set(epochs)) and all(min(pair) >= 1 for pair in self.progressive)
        require(allowed, "augment.progressive", self.progressive, expected)
        for key in ("brightness", "contrast", "saturation", "erasing"):
            require(0 <= getattr(self, key) <= 1, f"augment.{key}", getattr(self, key), "a number from 0 to 1")
        for key in ("pad_crop", "lighting", "cutout", "mixup", "cutmix"):
            require(getattr(self, key) >= 0, f"augment.{key}", getattr(self, key), "0 or more")
