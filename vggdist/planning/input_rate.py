"""Whether the cores of a host prepare enough images for its ranks.

The rate of a GPU is published for VGG-16 at 224 px, and scaled by FLOPs for another network or size. The rate of a core was
measured (docs/data.md, "Speed", one thread on an AMD EPYC, Genoa): photographs of ImageNet, 0.19 megapixels and 108 kB in the
mean, to 224 px with a random resized crop and a flip, 869 images/s; with jitter of brightness, contrast and saturation, 792.
Most of that time is libjpeg-turbo's, so it is assumed proportional to the pixels of the stored picture (an estimate: there
are fixed costs, too), and jitter to the pixels of the network's input. Images in memory: 0.017 ms at 32 px, proportional to
the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from vggdist.config.images import AugmentConfig
from vggdist.config.schema import ModelConfig
from vggdist.data.data_shape import DataShape
from vggdist.models.layers import Layer, describe

# Core seconds.
_DECODED, _DECODED_PIXELS, _DECODED_BYTES = 1 / 869, 500 * 375, 108_000
_JITTER, _JITTER_PIXELS = 1 / 792 - 1 / 869, 224**2
_IN_MEMORY, _IN_MEMORY_PIXELS = 0.017e-3, 32**2

_ASPECT = 4 / 3
RESERVE = 1.25
"""Factor of the rate for which threads are provided, since both rates vary."""
OTHER_CORES = 2
"""Cores of a rank for other threads: its loop with MXNet's threads, and Horovod's thread with NCCL's."""


@dataclass(frozen=True)
class Rate:
    """Published training speed of a GPU with VGG-16, float32, 224 px, synthetic data."""

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
    """The published rates, scaled by FLOPs to the given network."""
    reference = sum(one.flops for one in describe(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000))
    factor = reference / sum(layer.flops for layer in layers)
    for rate in PUBLISHED:
        yield Rate(rate.gpu, rate.images_per_s * factor, rate.source)


@dataclass(frozen=True)
class Preparation:
    """Cost of a training image.

    Attributes:
        seconds: core seconds.
        num_bytes: read from the disk; 0 if the images are in memory.
    """

    seconds: float
    num_bytes: float

    @classmethod
    def of(cls, images: DataShape, augment: AugmentConfig, encoded: bool, short_side: int | None) -> Preparation:
        """Estimate the cost.

        Args:
            encoded: the images are JPEG or PNG files, or records.
            short_side: of the stored pictures in pixels; None: the mean size of ImageNet as published.
        """
        seen = images.image_size**2
        if not encoded:
            return cls(_IN_MEMORY * seen / _IN_MEMORY_PIXELS, 0)
        stored = short_side**2 * _ASPECT if short_side is not None else _DECODED_PIXELS
        jitter = augment.brightness or augment.contrast or augment.saturation
        seconds = _DECODED * stored / _DECODED_PIXELS + (_JITTER * seen / _JITTER_PIXELS if jitter else 0)
        return cls(seconds, _DECODED_BYTES * stored / _DECODED_PIXELS)

    def threads(self, images_per_s: float) -> int:
        """Threads of one rank (``data.threads``), each on a core."""
        return max(1, ceil(RESERVE * images_per_s * self.seconds))

    def cores(self, images_per_s: float) -> int:
        """Cores of one rank, including :data:`OTHER_CORES`."""
        return self.threads(images_per_s) + OTHER_CORES


def fitting_short_side(images: DataShape, augment: AugmentConfig, images_per_s: float, cores: float) -> int | None:
    """The largest common short side of stored pictures for which ``cores`` of a rank are enough; None if there is none.

    It leaves room for the crops: at least 256 for 224, and the sizes of ``augment.resize`` and ``augment.scale_jitter``.
    """
    smallest = max(images.image_size * 8 / 7, augment.resize or 0, *(augment.scale_jitter or ()))
    for side in (512, 480, 384, 320, 288, 256, 224, 192, 160, 128):
        if side >= smallest and Preparation.of(images, augment, True, side).cores(images_per_s) <= cores:
            return side
    return None
