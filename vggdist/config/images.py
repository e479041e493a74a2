"""Which images a run reads and what happens to them: the sections ``data`` and ``augment`` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vggdist.config.data_sets import DATA_SETS
from vggdist.config.errors import require
from vggdist.config.options import Choice, PathText


@dataclass(frozen=True)
class ReadingConfig:
    """How images are read."""

    threads: int = 2
    """Threads of each rank that decode and augment."""
    prefetch: int = 4
    """Batches that are prepared ahead of the step."""

    def __post_init__(self) -> None:
        require(self.threads >= 1, "data.threads", self.threads, "at least 1 thread")
        require(self.prefetch >= 1, "data.prefetch", self.prefetch, "at least 1 batch")


@dataclass(frozen=True)
class SourceConfig(ReadingConfig):
    """Which images are read, and how."""

    name: Annotated[str, Choice({name: info.text for name, info in DATA_SETS.items()})] = "digits"
    """Which images."""
    root: PathText = "data"
    """Folder that holds the data set's files."""
    download: bool = False
    """Fetch missing files of cifar10, cifar100, mnist or fashion_mnist from their publisher into data.root, checked by
    hash, once per host."""
    held_out: float = 0.2
    """Share of the samples of each class that becomes the test set where the data set has none (digits, folder, records)."""
    validation: float = 0.0
    """Share of the training samples of each class that is held out to choose the best checkpoint and to stop by
    (train.patience); the test set is then measured once, at the end. 0: there is no such part, and the test set serves."""
    damaged: Literal["stop", "skip"] = "stop"
    """What an image that does not decode does: stop ends the run and names the file; skip decodes every image when a run
    starts, names those that are damaged and leaves them out, counted in result.json."""
    synthetic_samples: int = 1024
    """Training samples of the synthetic data set; its test set has a quarter as many."""
    synthetic_classes: int = 10
    """Classes of the synthetic data set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.name in DATA_SETS, "data.name", self.name, f"one of {', '.join(DATA_SETS)}")
        require(0 < self.held_out < 1, "data.held_out", self.held_out, "a share between 0 and 1")
        require(0 <= self.validation < 1, "data.validation", self.validation, "a share from 0 to below 1")
        require(self.synthetic_samples >= 4, "data.synthetic_samples", self.synthetic_samples, "at least 4")
        require(self.synthetic_classes >= 2, "data.synthetic_classes", self.synthetic_classes, "at least 2")


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Which images are read, and in which batches."""

    image_size: int | None = None
    """Side of the square image that the network sees in pixels; null: the size of the data set's own images."""
    channels: Literal[1, 3] | None = None
    """1: grey, 3: RGB; images of the other kind are converted. null: as the data set has them (folder, records: 3)."""
    last_batch: Literal["pad", "drop"] = "pad"
    """What happens to the samples that do not fill the last global batch of an epoch: pad trains on them in a batch
    that is filled up and masked; drop leaves them out of this epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_size is None or self.image_size >= 1, "data.image_size", self.image_size, "at least 1 pixel")


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image; each is a function of (seed, epoch, sample) alone.

    They are applied in the order of these fields. Test images are only resized and cropped (evaluation.crops).
    """

    resize: int | None = None
    """Short side in pixels to which an image is scaled before the centre crop of the image size; null: scaled so that the
    image size is just covered. Used in evaluation, and in training where no random crop applies."""
    random_resized_crop: bool = False
    """Crop a random part of the area and scale it to the image size (Szegedy et al. 2015)."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the area in the random resized crop."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Smallest and largest ratio of width to height in the random resized crop."""
    scale_jitter: tuple[int, int] | None = None
    """Smallest and largest short side in pixels, between which an image is scaled at random before the image size is cropped
    at random (Simonyan & Zisserman 2015, section 3.1: [256, 512]), instead of the random resized crop."""
    pad_crop: int = 0
    """Pad each side with this many black pixels and crop the image size at random (He et al. 2016, section 4.2)."""
    flip: bool = False
    """Mirror left and right with probability 1/2."""
    randaugment: tuple[int, int] | None = None
    """Number of random operations and their magnitude from 0 to 30, [2, 9] for instance (Cubuk et al. 2020, RandAugment;
    torchvision's fourteen operations and ranges)."""
    brightness: float = 0.0
    """Colour jitter: brightness is multiplied by a factor from [1 - x, 1 + x]."""
    contrast: float = 0.0
    """Colour jitter: contrast is multiplied by a factor from [1 - x, 1 + x]."""
    saturation: float = 0.0
    """Colour jitter: saturation is multiplied by a factor from [1 - x, 1 + x]."""
    lighting: float = 0.0
    """Standard deviation of the shift along the principal components of ImageNet's colours, 0.1 in the paper (Krizhevsky et
    al. 2012, section 4.1); RGB only."""
    cutout: int = 0
    """Side in pixels of a square at a random position that is set to the mean colour (DeVries & Taylor 2017)."""
    erasing: float = 0.0
    """Probability that a random rectangle, of 2 to 33 % of the area, is set to the mean colour (Zhong et al. 2017)."""
    mixup: float = 0.0
    """Alpha of the Beta(alpha, alpha) weight with which a second sample is mixed in (Zhang et al. 2018); 0 is off."""
    cutmix: float = 0.0
    """Alpha of the Beta(alpha, alpha) share that is kept when a box of a second sample is pasted in (Yun et al. 2019); 0 is
    off. With augment.mixup as well, one of the two is chosen for each sample with probability 1/2."""
    normalize: Literal["published", "computed", "none"] = "published"
    """Mean and standard deviation of each channel: the figures named for the data set (ImageNet's for folder and records,
    0.5 for synthetic), computed over the training set, or none (values from 0 to 1). With model.pretrained it is what those
    weights were trained with, whatever this says."""

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
        for key in ("brightness", "contrast", "saturation", "erasing"):
            require(0 <= getattr(self, key) <= 1, f"augment.{key}", getattr(self, key), "a number from 0 to 1")
        for key in ("pad_crop", "lighting", "cutout", "mixup", "cutmix"):
            require(getattr(self, key) >= 0, f"augment.{key}", getattr(self, key), "0 or more")
