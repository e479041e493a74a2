"""Loaders of the data sets, one function each; all return a training and a test part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.config.text import printable
from vggdist.data import cifar, download, fingerprint, folder, idx, predecoded, record_dataset
from vggdist.data.arrays import ArraySource, Source
from vggdist.data.decode import convert_channels
from vggdist.data.encoded import EncodedSource, Store
from vggdist.data.published import PARTS, Labelled
from vggdist.data.randomness import hash64
from vggdist.data.sanity_checks import abbreviated, findings

_log = logging.getLogger(__name__)
_DIGITS = tuple("0123456789")
# In the order of the labels, from the README of zalandoresearch/fashion-mnist.
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_PATTERN_CELLS = 4  # side of the synthetic pattern in cells: coarse enough for the network's first pooling layers


class LoadedPart(NamedTuple):
    """A loaded part, the hash of its contents, and a description of its origin for the log."""

    source: Source
    contents: str
    origin: str = ""


Parts = Mapping[str, LoadedPart]
"""``train``, ``test`` or both, by name."""


def load_parts(data: DataConfig, seed: int, wanted: Sequence[str] = PARTS) -> Parts:
    """Load parts of the configured data set; see :func:`vggdist.data.dataset.load`.

    Args:
        wanted: ``train``, ``test`` or both; the files of the other part are not needed, unless one is held out of the other.
    """
    parts = LOADERS[data.name](data, seed, wanted)
    return {name: parts[name] for name in wanted}


def _in_memory(part: Labelled, class_names: tuple[str, ...], data: DataConfig, origin: str = "") -> LoadedPart:
    images = convert_channels(part.images, data.channels or part.images.shape[-1])
    return LoadedPart(ArraySource(images, part.labels, class_names), fingerprint.of_pixels(part.images), origin)


def digits(data: DataConfig, seed: int, wanted: Sequence[str]) -> Parts:
    """Scikit-learn's digits: values from 0 to 16, scaled by 255/16 and rounded."""
    # Read the file directly (rows of 64 values and a label), because importing sklearn.datasets takes two seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int32)
    train, test = (
        _in_memory(Labelled(images[part], labels[part]), _DIGITS, data) for part in held_out_split(labels, data.held_out, seed)
    )
    return {"train": train, "test": test._replace(origin=_held_out(data))}


def published(data: DataConfig, seed: int, wanted: Sequence[str]) -> Parts:
    """A publisher's files, downloaded if they are missing and data.download is true."""
    try:
        return _read_published(data, wanted)
    except download.MissingFileError:
        if not data.download:
            raise
    download.fetch(data.name, Path(data.root))
    return _read_published(data, wanted)


def _read_published(data: DataConfig, wanted: Sequence[str]) -> Parts:
    root = Path(data.root)
    if data.name in cifar.CIFAR:
        parts, names, place = cifar.load_cifar(data.name, root, wanted)
    else:
        parts, place = idx.load_idx(data.name, root, wanted)
        names = _DIGITS if data.name == "mnist" else _FASHION
    return {name: _in_memory(part, names, data, f"from {printable(place)}") for name, part in parts.items()}


def in_folders(data: DataConfig, seed: int, wanted: Sequence[str]) -> Parts:
    """Image folders in data.root, in memory if the images are small and of one size."""
    root = Path(data.root)
    if [*wanted] == ["test"] and (listed := folder.scan_test(root)) is not None:
        names, listing = listed
        return {"test": in_files(listing, names, data, len(listing.paths))}
    layout, *listings = folder_listings(data, seed)
    check_classes(f"data.root {data.root}", layout.class_names, *(listing.labels for listing in listings))
    total = sum(len(listing.paths) for listing in listings)
    train, test = (in_files(listing, layout.class_names, data, total) for listing in listings)
    if layout.test is None:
        test = test._replace(origin=_held_out(data))
    if layout.not_read:
        test = test._replace(origin=f"{test.origin}; other entries, not read: {abbreviated(layout.not_read)}")
    return {"train": train, "test": test}


def in_files(listing: folder.Listing, names: tuple[str, ...], data: DataConfig, total: int) -> LoadedPart:
    """A part of image files.

    Args:
        total: number of images of all parts.
    """
    left_out = _left_out(listing, data)
    return _encoded_part(folder.FileStore(listing.paths), listing.labels, names, data, total, left_out, listing.origin)


def _left_out(listing: folder.Listing, data: DataConfig) -> int:
    """The number of broken symlinks, which are left out; ``RequestError`` if there are any and data.damaged is ``stop``."""
    links = listing.broken_links
    if links and data.damaged == "stop":
        raise RequestError(
            f"{len(links)} images in {listing.place} are broken symlinks, such as {links[0]}; restore their targets, remove "
            f"them, or leave them out with --data.damaged skip"
        )
    for link in links:
        _log.warning("left out: %s is a broken symlink", link)
    return len(links)


def _held_out(data: DataConfig) -> str:
    return f"held out, {100 * data.held_out:g} % of each class"


def check_classes(place: str, class_names: tuple[str, ...], train: NDArray[np.int32], test: NDArray[np.int32]) -> None:
    """Log warnings about the classes of both parts; ``RequestError`` if they cannot be trained on.

    Args:
        place: where the images are; the message begins with it.
    """
    problem, warnings = findings(class_names, train, test)
    if problem is not None:
        raise RequestError(f"{place}: {problem}")
    for warning in warnings:
        _log.warning("%s", warning)


def folder_listings(data: DataConfig, seed: int) -> tuple[folder.Layout, folder.Listing, folder.Listing]:
    """The layout of data.root, and the files of the training and of the test part; no image is read."""
    layout = folder.scan(Path(data.root))
    if layout.test is not None:
        return layout, layout.train, layout.test
    return layout, *layout.train.split(*held_out_split(layout.train.labels, data.held_out, seed))


def in_records(data: DataConfig, seed: int, wanted: Sequence[str]) -> Parts:
    """Record files in data.root, in memory if the images are small and of one size."""
    root = Path(data.root)
    if [*wanted] == ["test"] and (listed := record_dataset.find_test(root, data.damaged)) is not None:
        names, part = listed
        total, left_out = len(part.store), len(part.left_out)
        return {"test": _encoded_part(part.store, part.labels, names, data, total, left_out, part.origin)}
    names, train, test = record_dataset.find(root, data.damaged)
    if test is not None:
        parts = [(part.store, part.labels, len(part.left_out), part.origin) for part in (train, test)]
    else:
        split = held_out_split(train.labels, data.held_out, seed)
        # A damaged record without a label belongs to no class, so it is counted in the training part.
        parts = [
            (train.store.take(chosen), train.labels[chosen], left_out, origin)
            for chosen, left_out, origin in zip(split, (len(train.left_out), 0), (train.origin, _held_out(data)), strict=True)
        ]
    check_classes(f"data.root {data.root}", names, *(labels for _, labels, *_ in parts))
    total = sum(len(store) for store, *_ in parts)
    train_part, test_part = (
        _encoded_part(store, labels, names, data, total, left_out, origin) for store, labels, left_out, origin in parts
    )
    if others := record_dataset.not_read(root):
        test_part = test_part._replace(origin=f"{test_part.origin}; other entries, not read: {abbreviated(others)}")
    return {"train": train_part, "test": test_part}


def _encoded_part(
    store: Store,
    labels: NDArray[np.int32],
    class_names: tuple[str, ...],
    data: DataConfig,
    total: int,
    left_out: int,
    origin: str,
) -> LoadedPart:
    whole, labels, images = predecoded.read_part(store, labels, data, total)
    left_out += len(store) - len(whole)
    contents = fingerprint.of_store(whole)
    if images is None:
        return LoadedPart(EncodedSource(whole, labels, class_names, data.channels or 3, left_out), contents, origin)
    return LoadedPart(ArraySource(images, labels, class_names, left_out, whole.name), contents, origin)


def synthetic(data: DataConfig, seed: int, wanted: Sequence[str]) -> Parts:
    """Noise plus a coarse pattern per class, which is the same in both parts; the labels cycle through the classes."""
    size, channels, classes = data.image_size or 32, data.channels or 3, data.synthetic_classes
    shape = classes, _PATTERN_CELLS, _PATTERN_CELLS, channels
    cells = (hash64(seed, "pattern", np.arange(np.prod(shape))) >> np.uint64(57)).astype(np.uint8).reshape(shape)
    cell_of = np.arange(size) * _PATTERN_CELLS // size
    patterns = cells[:, cell_of][:, :, cell_of]
    names = tuple(f"class {label}" for label in range(classes))

    def part(number: int, samples: int) -> LoadedPart:
        noise = np.random.default_rng((seed, number))
        images = noise.integers(0, 128, (samples, size, size, channels), np.uint8)
        for label, pattern in enumerate(patterns):
            images[label::classes] += pattern
        return _in_memory(Labelled(images, (np.arange(samples) % classes).astype(np.int32)), names, data)

    return {"train": part(0, data.synthetic_samples), "test": part(1, data.synthetic_samples // 4)}


def given(data: DataConfig, seed: int, wanted: Sequence[str]) -> Parts:
    """Raise ``RequestError``: the images were passed to the Python API and cannot be loaded."""
    raise RequestError(
        f"data.name is given: the {' and '.join(wanted)} images come from a Python program; run that program again"
    )


LOADERS: Mapping[str, Callable[[DataConfig, int, Sequence[str]], Parts]] = {
    "digits": digits,
    "cifar10": published,
    "cifar100": published,
    "mnist": published,
    "fashion_mnist": published,
    "folder": in_folders,
    "records": in_records,
    "synthetic": synthetic,
    "given": given,
}
"""For each data set the function that loads it, from the configuration, the seed and the names of the wanted parts."""


def held_out_split(
    labels: NDArray[np.integer[Any]], share: float, seed: int, part: str = "held out"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out a fraction of each class, selected by hash.

    Args:
        labels: ``(N,)`` integers.
        share: fraction of each class, rounded. A class of two or more samples has at least one in each part; a single sample
            stays in the training part.
        seed, part: the split is a pure function of them and the labels.

    Returns:
        Sorted indices of the training part and of the held-out part, ``int64``.
    """
    samples = np.arange(len(labels))
    by_class = np.lexsort((hash64(seed, part, samples), labels))  # sorted by class, shuffled within each
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    held = np.clip(np.rint(counts * share).astype(np.int64), 1, np.maximum(counts - 1, 1)) * (counts > 1)
    place_in_class = samples - np.repeat(starts, counts)
    chosen = place_in_class < np.repeat(held, counts)
    return np.sort(by_class[~chosen]), np.sort(by_class[chosen])
