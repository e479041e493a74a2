"""Data sets in RecordIO files: ``train.rec`` and ``test.rec`` (or val.rec) with their ``.idx`` files, and ``classes.txt``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os.path import lexists
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.config.files import read_text
from vggdist.config.text import printable
from vggdist.data.decode import DamagedImageError, Encoded
from vggdist.data.record_reader import RecordReader

_log = logging.getLogger(__name__)
CLASSES = "classes.txt"
"""File of the class names, one per line, in the order of the labels."""
_TEST_FILES = ("test.rec", "val.rec", "validation.rec")
_NAMES_LIMIT = 2**24  # bytes of a file of class names


class RecordStore:
    """Images in a record file (a :class:`vggdist.data.encoded.Store`)."""

    def __init__(self, reader: RecordReader, places: NDArray[np.int64]) -> None:
        """Select the records at ``(N,)`` positions of the index."""
        self.reader, self.places = reader, places

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """The file and the record's key."""
        return self.reader.name(self.places[index])

    def stamp(self, index: int) -> str:
        """Size and modification time of the record file when it was opened."""
        return self.reader.stamp

    def mark(self, index: int) -> bytes:
        """The record's length."""
        return b"%d" % self.reader.lengths[self.places[index]]

    def read(self, index: int) -> Encoded:
        """Read one record; ``DamagedImageError`` if it violates the format."""
        return Encoded(self.reader.read(int(self.places[index])).content, self.name(index))

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> RecordStore:
        """The records at ``indices``."""
        return RecordStore(self.reader, self.places[np.asarray(indices)])


class RecordPart:
    """One record file: its images and their ``(N,) int32`` labels, without records with a damaged header.

    Attributes:
        left_out: name and error of each record with a damaged header.
        origin: description of the location of the images.
    """

    def __init__(self, path: Path, damaged: str) -> None:
        """Read the index and every label.

        Raises:
            DamagedImageError: a record's header is damaged, unless ``damaged`` is ``skip``.
            RequestError: the files cannot be read, or are not a record file and its index.
        """
        reader = RecordReader(path)
        labels, damage = reader.labels()
        if damage and damaged == "stop":
            raise DamagedImageError(next(iter(damage.values())))
        for message in damage.values():
            _log.warning("left out: %s", message)
        whole = np.setdiff1d(np.arange(len(reader)), sorted(damage))
        if not whole.size:
            raise RequestError(f"all {len(reader)} records of {path} are damaged")
        self.path, self.store, self.labels = path, RecordStore(reader, whole), labels[whole].astype(np.int32)
        self.left_out = {reader.name(place): message for place, message in damage.items()}
        self.origin = f"from {printable(path)}" + ("" if reader.has_index else ", in file order because there is no index")


def find(root: Path, damaged: str) -> tuple[tuple[str, ...], RecordPart, RecordPart | None]:
    """The class names, the training part and the test part of a data set; the test part is None if it must be held out.

    Raises:
        RequestError: ``root`` has no ``train.rec``, or a label has no class name.
    """
    train_file = root / "train.rec"
    if not lexists(train_file):
        others = ", ".join(printable(path.name) for path in sorted(root.glob("*.rec")))
        hint = f" (found {others}: rename the file of the training images)" if others else ""
        raise RequestError(
            f"{train_file} is missing; data.root must contain train.rec and train.idx, as written by vggdist prepare{hint}"
        )
    train = RecordPart(train_file, damaged)
    test = next((RecordPart(root / name, damaged) for name in _TEST_FILES if lexists(root / name)), None)
    highest = max(int(part.labels.max()) for part in (train, test) if part is not None)
    return numbered_names(root / CLASSES, highest, len(train.labels), str(train_file)), train, test


def find_test(root: Path, damaged: str) -> tuple[tuple[str, ...], RecordPart] | None:
    """The class names and the test part of a data set, without its training part; None if there is no test file.

    Raises:
        RequestError: as :func:`find`.
    """
    path = next((root / name for name in _TEST_FILES if lexists(root / name)), None)
    if path is None:
        return None
    part, names = RecordPart(path, damaged), class_names(root / CLASSES)
    highest = int(part.labels.max())
    if names is not None and highest >= len(names):
        raise RequestError(f"{root / CLASSES} has {len(names)} class names, but a record has the label {highest}")
    return names or tuple(f"class {label}" for label in range(highest + 1)), part


def not_read(root: Path) -> tuple[str, ...]:
    """Names of the record files in a folder that are neither the training nor the test part."""
    tests = [name for name in _TEST_FILES if lexists(root / name)]
    return tuple(printable(path.name) for path in sorted(root.glob("*.rec")) if path.name not in ("train.rec", *tests[:1]))


def numbered_names(path: Path, highest: int, images: int, origin: str) -> tuple[str, ...]:
    """A name for each label from 0 to the highest, from the file of class names if it exists.

    Args:
        images: number of training images.
        origin: file of the labels, for messages.

    Raises:
        RequestError: the file has too few names; or it does not exist and there would be more classes than images.
    """
    names = class_names(path)
    if names is None:
        if highest >= images:
            raise RequestError(
                f"{origin} has {images} images with labels up to {highest}, so most of the network's {highest + 1} outputs "
                f"would be unused; number the classes from 0, or list all class names in {path}, one per line"
            )
        return tuple(f"class {label}" for label in range(highest + 1))
    if highest >= len(names):
        raise RequestError(
            f"{path} has {len(names)} class names, but a record has the label {highest}; expected at least {highest + 1} names"
        )
    return names


def class_names(path: Path) -> tuple[str, ...] | None:
    """The lines of a file of class names; None if there is no such file."""
    if not lexists(path):  # a broken symlink is an error
        return None
    try:
        lines = read_text(path, _NAMES_LIMIT).removeprefix("\ufeff").removesuffix("\n").split("\n")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    names = tuple(printable(line.removesuffix("\r")) for line in lines)
    if len(set(names)) < len(names) or "" in names:
        raise RequestError(f"{path} has an empty line or a duplicate name; expected one class name per line")
    return names
