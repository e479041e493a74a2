"""The data sets: one small function for each, all of which end in two sources and the published statistics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Protocol

import numpy as np

from vggdist.config.images import DataConfig
from vggdist.data import download, folder, formats, records
from vggdist.data.decode import convert_channels
from vggdist.data.encoded import EncodedSource, Store
from vggdist.data.randomness import hash64

_log = logging.getLogger(__name__)
_DIGITS = tuple("0123456789")
# In the order of the labels: README of zalandoresearch/fashion-mnist.
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_PATTERN_CELLS = 4  # the synthetic pattern's side in cells: coarse enough to survive a network's first poolings


class Source(Protocol):
    """One part, training or test, of a data set. Reading is safe from several threads at once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label; the test part has those of the training part."""

    @property
    def labels(self) -> np.ndarray:
        """``(N,) int32``."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(H, W, C)``, or None where the images may differ in size."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""

    @property
    def left_out(self) -> int:
        """Damaged images that are not among these, since data.damaged is skip."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """``(H, W, C) uint8``; ``DamagedImageError`` where it does not decode."""


@dataclass(eq=False)
class ArraySource:
    """Images of one size, in memory: ``images`` is ``(N, H, W, C) uint8``, ``labels`` is ``(N,) int32``."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    left_out: int = 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)``."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.images.shape[-1]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        """A view of one image: ``(H, W, C) uint8``."""
        return self.images[index]


@dataclass(frozen=True)
class DataSet:
    """Both parts, and the published mean and standard deviation of each channel on a scale from 0 to 1."""

    train: Source
    test: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def left_out(self) -> dict[str, int]:
        """How many damaged images each part lacks."""
        return {"train": self.train.left_out, "test": self.test.left_out}


# Mean and standard deviation over all pixels of the training images, each channel, on a scale from 0 to 1.
# cifar10, cifar100, mnist, fashion_mnist: the figures in common use, those of the training files to four places.
# folder, records: ImageNet's, of fb.resnet.torch and torchvision. digits: measured on all 1,797 images as loaded here.
STATISTICS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "folder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "records": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "digits": ((0.3053,), (0.3759,)),
    "synthetic": ((0.5,), (0.5,)),
}


def load(data: DataConfig, seed: int) -> DataSet:
    """Load both parts of the data set that ``data`` names, in ``data.channels`` channels.

    Args:
        data: which data set, where its files are, and how they are read.
        seed: decides the held-out part and the synthetic images; the same on every rank.

    Raises:
        RequestError: a file is missing, cannot be fetched, or is not as it should be.
    """
    loaders = {"digits": _digits, "synthetic": _synthetic, "folder": _folder, "records": _records}
    train, test = loaders.get(data.name, _published)(data, seed)
    for name, part in (("training", train), ("test", test)):
        if part.left_out:
            _log.warning("%d of %d %s images are damaged and left out", part.left_out, part.left_out + len(part), name)
    mean, std = (_per_channel(values, train.channels) for values in STATISTICS[data.name])
    return DataSet(train, test, mean, std)


def held_out_split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of each class, chosen by hash.

    Args:
        labels: ``(N,)`` whole numbers.
        share: of the samples of each class, rounded; a class of two or more has at least one sample in each part, and a
            class of one stays in the training part.
        seed: the split is a pure function of it and the labels.

    Returns:
        Sorted indices of the training part and of the held-out part, ``int64``.
    """
    samples = np.arange(len(labels))
    by_class = np.lexsort((hash64(seed, "held out", samples), labels))  # classes in order, shuffled within
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    held = np.clip(np.rint(counts * share).astype(np.int64), 1, np.maximum(counts - 1, 1)) * (counts > 1)
    place_in_class = samples - np.repeat(starts, counts)
    chosen = place_in_class < np.repeat(held, counts)
    return np.sort(by_class[~chosen]), np.sort(by_class[chosen])


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Published figures for another number of channels: grey takes their mean, RGB repeats the one of grey."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels


def _in_memory(part: formats.Labelled, class_names: tuple[str, ...], data: DataConfig) -> ArraySource:
    return ArraySource(convert_channels(part.images, data.channels or part.images.shape[-1]), part.labels, class_names)


def _digits(data: DataConfig, seed: int) -> tuple[Source, Source]:
    """Scikit-learn's digits: values from 0 to 16, scaled by 255/16 and rounded."""
    # The file alone, whose rows are 64 values and a label: to import sklearn.datasets takes two seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int32)
    train, test = (
        _in_memory(formats.Labelled(images[part], labels[part]), _DIGITS, data)
        for part in held_out_split(labels, data.held_out, seed)
    )
    return train, test


def _published(data: DataConfig, seed: int) -> tuple[Source, Source]:
    """A publisher's files, fetched when they are missing and data.download is true."""
    try:
        return _read_published(data)
    except download.MissingFileError:
        if not data.download:
            raise
    download.fetch(data.name, Path(data.root))
    return _read_published(data)


def _read_published(data: DataConfig) -> tuple[Source, Source]:
    root = Path(data.root)
    if data.name in formats.CIFAR:
        train, test, names = formats.load_cifar(data.name, root)
    else:
        train, test = formats.load_idx(data.name, root, download.PUBLISHERS[data.name].folder)
        names = _DIGITS if data.name == "mnist" else _FASHION
    return _in_memory(train, names, data), _in_memory(test, names, data)


def _folder(data: DataConfig, seed: int) -> tuple[Source, Source]:
    """Images under data.root, in memory where they are small and of one size."""
    class_names, *listings = folder_listings(data, seed)
    total = sum(len(listing.paths) for listing in listings)
    train_part, test_part = (
        _encoded_part(folder.FileStore(listing.paths), listing.labels, class_names, data, total) for listing in listings
    )
    return train_part, test_part


def folder_listings(data: DataConfig, seed: int) -> tuple[tuple[str, ...], folder.Listing, folder.Listing]:
    """The classes under data.root, and the files of the training and of the test part; no image is read."""
    layout = folder.scan(Path(data.root))
    if layout.test is not None:
        return layout.class_names, layout.train, layout.test
    train, test = held_out_split(layout.train.labels, data.held_out, seed)
    return layout.class_names, layout.train.take(train), layout.train.take(test)


def _records(data: DataConfig, seed: int) -> tuple[Source, Source]:
    """Record files in data.root, in memory where their images are small and of one size."""
    names, train, test = records.find(Path(data.root), data.damaged)
    if test is not None:
        parts = [(part.store, part.labels, len(part.left_out)) for part in (train, test)]
    else:
        split = held_out_split(train.labels, data.held_out, seed)
        # A record without a label can be held out from neither part: it counts as one of the training part.
        parts = [
            (train.store.take(chosen), train.labels[chosen], left_out)
            for chosen, left_out in zip(split, (len(train.left_out), 0), strict=True)
        ]
    total = sum(len(store) for store, *_ in parts)
    train_part, test_part = (_encoded_part(store, labels, names, data, total, left_out) for store, labels, left_out in parts)
    return train_part, test_part


def _encoded_part(
    store: Store,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    data: DataConfig,
    total: int,
    left_out: int = 0,
) -> Source:
    whole, labels, images = folder.read_part(store, labels, data, total)
    left_out += len(store) - len(whole)
    if images is None:
        return EncodedSource(whole, labels, class_names, data.channels or 3, left_out)
    return ArraySource(images, labels, class_names, left_out)


def _synthetic(data: DataConfig, seed: int) -> tuple[Source, Source]:
    """Half noise, half a coarse pattern of each class, the same in both parts; labels go round the classes."""
    size, channels, classes = data.image_size or 32, data.channels or 3, data.synthetic_classes
    shape = classes, _PATTERN_CELLS, _PATTERN_CELLS, channels
    cells = (hash64(seed, "pattern", np.arange(np.prod(shape))) >> np.uint64(57)).astype(np.uint8).reshape(shape)
    cell_of = np.arange(size) * _PATTERN_CELLS // size
    patterns = cells[:, cell_of][:, :, cell_of]
    names = tuple(f"class {label}" for label in range(classes))

    def part(number: int, samples: int) -> ArraySource:
        noise = np.random.default_rng((seed, number))
        images = noise.integers(0, 128, (samples, size, size, channels), np.uint8)
        for label, pattern in enumerate(patterns):
            images[label::classes] += pattern
        return ArraySource(images, (np.arange(samples) % classes).astype(np.int32), names)

    return part(0, data.synthetic_samples), part(1, data.synthetic_samples // 4)
