"""Data sets in RecordIO files: ``train.rec`` and ``test.rec`` (or val), each with its ``.idx``, and ``classes.txt``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os.path import lexists
from pathlib import Path

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.config.files import read_text
from vggdist.config.text import printable
from vggdist.data.decode import DamagedImageError, Encoded
from vggdist.data.record_reader import RecordReader

_log = logging.getLogger(__name__)
CLASSES = "classes.txt"
"""File of the class names, one on a line, in the order of the labels."""
_TEST_FILES = ("test.rec", "val.rec", "validation.rec")
_NAMES_LIMIT = 2**24  # bytes of a file of class names


class RecordStore:
    """Images in a record file (a :class:`vggdist.data.encoded.Store`)."""

    def __init__(self, reader: RecordReader, places: np.ndarray) -> None:
        """Take the records at ``(N,)`` places in the index."""
        self.reader, self.places = reader, places

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """The file and the record's key."""
        return self.reader.name(self.places[index])

    def stamp(self, index: int) -> str:
        """Size and time of the record file when it was opened."""
        return self.reader.stamp

    def mark(self, index: int) -> bytes:
        """The record's length."""
        return b"%d" % self.reader.lengths[self.places[index]]

    def read(self, index: int) -> Encoded:
        """One record; ``DamagedImageError`` where it is not as the format says."""
        return Encoded(self.reader.read(int(self.places[index])).content, self.name(index))

    def take(self, indices: Sequence[int] | np.ndarray) -> RecordStore:
        """Some of the records."""
        return RecordStore(self.reader, self.places[np.asarray(indices)])


class RecordPart:
    """One record file: its images and their ``(N,) int32`` labels, without those whose header is damaged.

    Attributes:
        left_out: name of each record without a header, and what is wrong with it.
        origin: where the images are, in words.
    """

    def __init__(self, path: Path, damaged: str) -> None:
        """Read the index and every label.

        Raises:
            DamagedImageError: a record's header is damaged, unless ``damaged`` is ``skip``.
            RequestError: the files cannot be read, or are no record file and its index.
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
        self.origin = f"from {printable(path)}" + ("" if reader.has_index else ", in its order: it has no index")


def find(root: Path, damaged: str) -> tuple[tuple[str, ...], RecordPart, RecordPart | None]:
    """The class names and the parts of a data set; the second part is None where it has to be held out.

    Raises:
        RequestError: ``root`` holds no ``train.rec``, or a label has no class name.
    """
    train_file = root / "train.rec"
    if not lexists(train_file):
        others = ", ".join(printable(path.name) for path in sorted(root.glob("*.rec")))
        beside = f" ({others} {'are' if ',' in others else 'is'} there: rename what is to be trained on)" if others else ""
        raise RequestError(
            f"{train_file} is missing; data.root must hold train.rec and train.idx, as vggdist prepare makes them{beside}"
        )
    train = RecordPart(train_file, damaged)
    test = next((RecordPart(root / name, damaged) for name in _TEST_FILES if lexists(root / name)), None)
    highest = max(int(part.labels.max()) for part in (train, test) if part is not None)
    return numbered_names(root / CLASSES, highest, len(train.labels), str(train_file)), train, test


def find_test(root: Path, damaged: str) -> tuple[tuple[str, ...], RecordPart] | None:
    """The class names and the test part of a data set, without its training part; None where there is no such file.

    Raises:
        RequestError: as :func:`find`.
    """
    path = next((root / name for name in _TEST_FILES if lexists(root / name)), None)
    if path is None:
        return None
    part, names = RecordPart(path, damaged), class_names(root / CLASSES)
    highest = int(part.labels.max())
    if names is not None and highest >= len(names):
        raise RequestError(f"{root / CLASSES} names {len(names)} classes, but a record has label {highest}")
    return names or tuple(f"class {label}" for label in range(highest + 1)), part


def not_read(root: Path) -> tuple[str, ...]:
    """Names of the record files of a data set that are neither its training nor its test part."""
    tests = [name for name in _TEST_FILES if lexists(root / name)]
    return tuple(printable(path.name) for path in sorted(root.glob("*.rec")) if path.name not in ("train.rec", *tests[:1]))


def numbered_names(path: Path, highest: int, images: int, origin: str) -> tuple[str, ...]:
    """A name for each label from 0 to the highest: from a file of class names, where it is there.

    Args:
        images: number of training images.
        origin: where the labels are, for messages.

    Raises:
        RequestError: the file has too few names; or there is none, and there would be more classes than images.
    """
    names = class_names(path)
    if names is None:
        if highest >= images:
            raise RequestError(
                f"{origin} has {images} images with labels up to {highest}: a network of {highest + 1} outputs, most of them "
                f"for nothing; number the classes from 0, or name all of them in {path}, one on a line"
            )
        return tuple(f"class {label}" for label in range(highest + 1))
    if highest >= len(names):
        raise RequestError(f"{path} names {len(names)} classes, but a record has label {highest}; expected one more")
    return names


def class_names(path: Path) -> tuple[str, ...] | None:
    """The lines of a file of class names; None where there is no such file."""
    if not lexists(path):  # a link to nothing is one that was meant to be something
        return None
    try:
        lines = read_text(path, _NAMES_LIMIT).removeprefix("\ufeff").removesuffix("\n").split("\n")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    names = tuple(printable(line.removesuffix("\r")) for line in lines)
    if len(set(names)) < len(names) or "" in names:
        raise RequestError(f"{path} has an empty line or a name twice; expected the name of each class on a line of its own")
    return names
