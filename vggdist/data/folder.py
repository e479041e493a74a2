"""Images in one folder for each class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data.decode import DamagedImageError, Encoded, decode, read_file
from vggdist.data.encoded import Store

_log = logging.getLogger(__name__)
_SUFFIXES = (".jpg", ".jpeg", ".png")
_TEST_FOLDERS = ("test", "val", "validation")
_CHUNK = 64  # files that a thread takes at once: a task for each file would cost as much as a small JPEG

MEMORY_LIMIT = 512 * 2**20
"""Bytes of pixels up to which a data set of equal-sized images is decoded once, at load."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Files in a fixed order, and the class of each: ``(N,) int32``."""

    paths: tuple[Path, ...]
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> Listing:
        """The part of the listing at ``indices``."""
        return Listing(tuple(self.paths[index] for index in indices), self.labels[indices])


@dataclass(frozen=True, eq=False)
class Layout:
    """What a data folder holds; ``test`` is None where it has no test folder and a part must be held out."""

    class_names: tuple[str, ...]
    train: Listing
    test: Listing | None


class FileStore:
    """Images in files of their own (a :class:`vggdist.data.encoded.Store`)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def stamp(self, index: int) -> str:
        """Size and time of the file; empty where there is none."""
        try:
            status = self.paths[index].stat()
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self, index: int) -> Encoded:
        """One file; ``RequestError`` where it cannot be read."""
        return read_file(self.paths[index])

    def take(self, indices: Sequence[int] | np.ndarray) -> FileStore:
        """Some of the files."""
        return FileStore([self.paths[index] for index in indices])


def scan(root: Path) -> Layout:
    """List ``root/train/<class>/`` and ``root/test/<class>/`` (or val, validation), or else ``root/<class>/``.

    Classes and files are in sorted order, so every rank lists the same. Other files are counted, named and ignored.

    Raises:
        RequestError: no classes, an empty class, or a test class that train lacks.
    """
    if not root.is_dir():
        raise RequestError(
            f"data.root {root} is not a folder; expected one that holds train/<class>/ and test/<class>/, or <class>/"
        )
    train = root / "train"
    if not train.is_dir():
        names = _class_names(root)
        return Layout(names, _list(root, names, names), None)
    test = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    names = _class_names(train)
    if test is None:
        return Layout(names, _list(train, names, names), None)
    test_names = _class_names(test)
    if unknown := sorted(set(test_names) - set(names)):
        raise RequestError(
            f"{test} has {len(unknown)} classes that {train} lacks: {', '.join(unknown[:5])}; the "
            f"network cannot learn them; remove them or add training images"
        )
    return Layout(names, _list(train, names, names), _list(test, test_names, names))


def _class_names(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise RequestError(f"{folder} holds no class folders; expected {folder}/<class>/<image>.jpg or .png")
    return tuple(names)


def _list(folder: Path, listed: Sequence[str], class_names: tuple[str, ...]) -> Listing:
    """The images of the listed classes; a label is the place in ``class_names``."""
    paths: list[Path] = []
    counts: list[int] = []
    ignored: list[str] = []
    for class_name in listed:
        entries = sorted(os.scandir(folder / class_name), key=lambda entry: entry.name)
        images = [entry for entry in entries if entry.name.lower().endswith(_SUFFIXES) and entry.is_file()]
        if not images:
            raise RequestError(f"{folder / class_name} holds no .jpg, .jpeg or .png file; add some or remove it")
        chosen = set(images)
        ignored += [entry.path for entry in entries if entry not in chosen]
        paths += [Path(entry.path) for entry in images]
        counts.append(len(images))
    if ignored:
        _log.warning(
            "%d entries under %s are not .jpg, .jpeg or .png files and are ignored, such as %s",
            len(ignored),
            folder,
            ignored[0],
        )
    labels = np.repeat([class_names.index(name) for name in listed], counts).astype(np.int32)
    return Listing(tuple(paths), labels)


def read_part(store: Store, labels: np.ndarray, data: DataConfig, total: int) -> tuple[Store, np.ndarray, np.ndarray | None]:
    """Decode a part now if that is worth while, and find its damaged images if they are to be left out.

    Args:
        store: the images of the part.
        labels: ``(N,)`` their classes.
        data: channels, threads, and what a damaged image does. With ``skip`` every image is decoded once here, because the
            plan of samples must be the same on all ranks before the first step.
        total: images of all parts together, which share ``MEMORY_LIMIT``.

    Returns:
        Images and labels without what is damaged, and the pixels ``(N, H, W, C) uint8`` where all have one size and fit.

    Raises:
        DamagedImageError: an image that was decoded here is damaged and data.damaged is ``stop``.
        RequestError: all images of a class are damaged.
    """
    shape = _first_shape(store, data)
    small = int(np.prod(shape)) * total <= MEMORY_LIMIT
    images = np.empty((len(store), *shape), np.uint8) if small else None
    if images is None and data.damaged == "stop":
        return store, labels, None
    equal, damage = _decode_all(store, data, images)
    if damage:
        for _, message in sorted(damage.items()):
            _log.warning("left out: %s", message)
        whole = np.setdiff1d(np.arange(len(store)), sorted(damage))
        lost = np.setdiff1d(labels, labels[whole])
        if lost.size:
            first = int(np.flatnonzero(labels == lost[0])[0])
            raise RequestError(f"all images of the class of {store.name(first)} are damaged; replace them or remove the class")
        store, labels = store.take(whole), labels[whole]
        images = images[whole] if equal and images is not None else None
    return store, labels, images if equal else None


def _first_shape(store: Store, data: DataConfig) -> tuple[int, ...]:
    for index in range(len(store)):
        try:
            return decode(store.read(index), data.channels or 3).shape
        except DamagedImageError:
            if data.damaged == "stop":
                raise
    raise RequestError(f"all {len(store)} images, from {store.name(0)} to {store.name(len(store) - 1)}, are damaged")


def _decode_all(store: Store, data: DataConfig, images: np.ndarray | None) -> tuple[bool, dict[int, str]]:
    """Decode every image once, into ``images`` where it has their size.

    Returns:
        Whether all have that size, and what is wrong with each damaged image. Where nobody looks for damage, the pass
        ends soon after the first image of another size.
    """
    damage: dict[int, str] = {}

    def visit(chunk: range) -> bool:
        equal = True
        for index in chunk:
            try:
                image = decode(store.read(index), data.channels or 3)
            except DamagedImageError as error:
                if data.damaged == "stop":
                    raise
                damage[index] = str(error)
                continue
            if images is not None and image.shape == images.shape[1:]:
                images[index] = image
            else:
                equal = False
        return equal

    chunks = [range(start, min(start + _CHUNK, len(store))) for start in range(0, len(store), _CHUNK)]
    with ThreadPoolExecutor(data.threads) as pool:
        if data.damaged == "skip":
            return all(list(pool.map(visit, chunks))), damage
        # all() stops at the first False; the iterator is then dropped, which cancels the chunks that have not begun. (A
        # name for the iterator would keep it alive until they had all run.)
        return all(pool.map(visit, chunks)), damage
