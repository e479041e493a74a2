"""Whether the cores of a host prepare as many images as its ranks train on.

What a GPU takes is published for VGG-16 at 224 px, and scaled by FLOPs for another network or size. What a core prepares was
measured (docs/data.md, "Speed", one thread on an AMD EPYC, Genoa): photographs of ImageNet, 0.19 megapixels and 108 kB in the
mean, to 224 px with a random resized crop and a flip, 869 images/s; with jitter of brightness, contrast and saturation, 792.
Most of that is libjpeg-turbo's, so the time is taken in proportion to the pixels of the stored picture (an estimate; smaller
pictures have fixed costs, too), and jitter's in proportion to those that the network sees. Images kept in memory: 0.017 ms at
32 px, in proportion to the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from vggdist.config.images import AugmentConfig
from vggdist.config.schema import ModelConfig
from vggdist.data.data_shape import DataShape
from vggdist.models.layers import Layer, describe

# Seconds of a core.
_DECODED, _DECODED_PIXELS, _DECODED_BYTES = 1 / 869, 500 * 375, 108_000
_JITTER, _JITTER_PIXELS = 1 / 792 - 1 / 869, 224**2
_IN_MEMORY, _IN_MEMORY_PIXELS = 0.017e-3, 32**2

_ASPECT = 4 / 3
RESERVE = 1.25
"""More is prepared than is taken, since neither is steady."""
OTHER_CORES = 2
"""Cores of a rank beside those that prepare: its loop with MXNet's threads, and Horovod's thread with NCCL's."""


@dataclass(frozen=True)
class Rate:
    """Images per second on which a GPU trains VGG-16, float32, 224 px, synthetic data, as its source measured it."""

    gpu: str
    images_per_s: float
    source: str


# docs/gpu.md has the sources in full.
_LAMBDA, _TENSORFLOW = "lambdal/lambda-tensorflow-benchmark", "TensorFlow, Benchmarks (2017)"
PUBLISHED = (
    Rate("P100", 154, _TENSORFLOW),
    Rate("RTX 2080 Ti", 164.6, _LAMBDA),
    Rate("V100", 249.2, _LAMBDA),
    Rate("RTX 3090", 325.3, _LAMBDA),
    Rate("RTX A6000", 339.0, _LAMBDA),
    Rate("A100", 503.6, _LAMBDA),
)


def published_rates(layers: list[Layer]) -> Iterator[Rate]:
    """What is published, for another network by its FLOPs."""
    reference = sum(one.flops for one in describe(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000))
    factor = reference / sum(layer.flops for layer in layers)
    for rate in PUBLISHED:
        yield Rate(rate.gpu, rate.images_per_s * factor, rate.source)


@dataclass(frozen=True)
class Preparation:
    """What a training image costs.

    Attributes:
        seconds: of a core.
        num_bytes: read from the disk; 0 where the images are in memory.
    """

    seconds: float
    num_bytes: float

    @classmethod
    def of(cls, images: DataShape, augment: AugmentConfig, encoded: bool, short_side: int | None) -> Preparation:
        """The estimate.

        Args:
            encoded: the images are JPEG or PNG files, or records.
            short_side: of the stored pictures in pixels; None: ImageNet's as published.
        """
        seen = images.image_size**2
        if not encoded:
            return cls(_IN_MEMORY * seen / _IN_MEMORY_PIXELS, 0)
        stored = short_side**2 * _ASPECT if short_side is not None else _DECODED_PIXELS
        jitter = augment.brightness or augment.contrast or augment.saturation
        seconds = _DECODED * stored / _DECODED_PIXELS + (_JITTER * seen / _JITTER_PIXELS if jitter else 0)
        return cls(seconds, _DECODED_BYTES * stored / _DECODED_PIXELS)

    def threads(self, images_per_s: float) -> int:
        """Of one rank (``data.threads``), each on a core."""
        return max(1, ceil(RESERVE * images_per_s * self.seconds))

    def cores(self, images_per_s: float) -> int:
        """Of one rank, for everything."""
        return self.threads(images_per_s) + OTHER_CORES


def fitting_short_side(images: DataShape, augment: AugmentConfig, images_per_s: float, cores: float) -> int | None:
    """The largest common short side of stored pictures that so many cores of a rank prepare in time; None where none is.

    It leaves room for the crops: 256 at least for 224, and what ``augment.resize`` and ``augment.scale_jitter`` ask for.
    """
    smallest = max(images.image_size * 8 / 7, augment.resize or 0, *(augment.scale_jitter or ()))
    for side in (512, 480, 384, 320, 288, 256, 224, 192, 160, 128):
        if side >= smallest and Preparation.of(images, augment, True, side).cores(images_per_s) <= cores:
            return side
    return None
