"""Test images and sources."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_image

from vggdist.data.dataset import ArraySource, DataSet


@dataclass
class MixedSizes:
    """A source of images of different sizes."""

    images: list[np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...] = ("a", "b")
    image_shape: None = None

    @property
    def channels(self) -> int:
        return self.images[0].shape[2]

    def __len__(self) -> int:
        return len(self.images)

    left_out: int = 0

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def one_size(samples: int = 40, side: int = 16, channels: int = 3) -> ArraySource:
    return ArraySource(noise(samples, side, side, channels), np.arange(samples, dtype=np.int32), ("a",) * samples)


def mixed_sizes(samples: int = 12, channels: int = 3) -> MixedSizes:
    images = [noise(20 + 7 * number % 31, 20 + 11 * number % 37, channels) for number in range(samples)]
    return MixedSizes(images, np.arange(samples, dtype=np.int32) % 2)


def photograph(side: int, channels: int = 3) -> np.ndarray:
    """``(side, side, C) uint8`` of a photograph in scikit-learn."""
    image = load_sample_image("flower.jpg")[100 : 100 + side, 150 : 150 + side]
    return np.ascontiguousarray(image if channels == 3 else image[..., :1])


def content_digest(data: DataSet) -> str:
    """SHA-256 of all pixels and labels."""
    found = sha256()
    for source in (data.train, data.test):
        assert isinstance(source, ArraySource)
        found.update(source.images.tobytes() + source.labels.tobytes())
    return found.hexdigest()


def write_fashion_mnist(root: Path, train_images: int) -> None:
    """Noise in the files of Fashion-MNIST; the test set has eight images."""
    root.mkdir()
    random = np.random.default_rng(0)
    for part, count in (("train", train_images), ("t10k", 8)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
