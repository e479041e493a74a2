"""Strict readers of CIFAR-10 and CIFAR-100, in the binary and the pickled distribution.

Any deviation from the published format is an error with the found and the expected size, so that no run trains on a truncated
file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.data import download
from vggdist.data.pickles import NamesError, read_pickle
from vggdist.data.published import PARTS, Labelled, checked_labels, find, is_there, missing_files, read_file, read_members

_PIXELS = 3 * 32 * 32
_PICKLED_ROW = _PIXELS + 128  # bytes; in addition to the pixels, a row has its labels and a file name
_NAMES_LIMIT = 2**16  # bytes of a file of class names


@dataclass(frozen=True)
class CifarFiles:
    """One distribution of CIFAR: its files, and the number of images in each."""

    folder: str
    archive: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    class_names: str
    num_classes: int
    label_bytes: int = 0
    """Bytes before each image; the last is the (fine) label. 0: the files are pickles with the two keys below."""
    label_key: str = ""
    names_key: str = ""

    def read(self, content: bytes, origin: str, rows: int) -> Labelled:
        """Read one file of this distribution."""
        if self.label_bytes:
            return read_cifar_binary(content, origin, rows, self.num_classes, self.label_bytes)
        return read_cifar_pickle(content, origin, rows, self.num_classes, self.label_key)

    def rows(self, part: str) -> Mapping[str, int]:
        """The files of ``train`` or ``test``, and the number of images in each."""
        return {"train": self.train, "test": self.test}[part]

    def limits(self, wanted: Sequence[str]) -> dict[str, int]:
        """The names of the files of some parts, and the maximum size of each in bytes."""
        row = _PIXELS + self.label_bytes if self.label_bytes else _PICKLED_ROW
        overhead = 0 if self.label_bytes else _NAMES_LIMIT
        images = {name: rows * row + overhead for part in wanted for name, rows in self.rows(part).items()}
        return {**images, self.class_names: _NAMES_LIMIT}


_FIVE = [f"data_batch_{number}" for number in range(1, 6)]
CIFAR: Mapping[str, tuple[CifarFiles, ...]] = {
    "cifar10": (
        CifarFiles(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            {f"{name}.bin": 10_000 for name in _FIVE},
            {"test_batch.bin": 10_000},
            "batches.meta.txt",
            10,
            label_bytes=1,
        ),
        CifarFiles(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            dict.fromkeys(_FIVE, 10_000),
            {"test_batch": 10_000},
            "batches.meta",
            10,
            label_key="labels",
            names_key="label_names",
        ),
    ),
    "cifar100": (
        CifarFiles(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            {"train.bin": 50_000},
            {"test.bin": 10_000},
            "fine_label_names.txt",
            100,
            label_bytes=2,
        ),
        CifarFiles(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            {"train": 50_000},
            {"test": 10_000},
            "meta",
            100,
            label_key="fine_labels",
            names_key="fine_label_names",
        ),
    ),
}


def load_cifar(name: str, root: Path, wanted: Sequence[str] = PARTS) -> tuple[dict[str, Labelled], tuple[str, ...], Path]:
    """Read parts of cifar10 or cifar100; return them by name, the class names, and the path of the folder or archive.

    Each distribution is searched in its own folder, in ``root`` and in its archive; the first one found is used.

    Args:
        wanted: ``train`` or ``test`` or both; the files of other parts are not needed.

    Raises:
        MissingFileError: names the first missing file of the most complete folder.
        RequestError: a file is not as published.
    """
    missing = []
    for files in CIFAR[name]:
        limits = files.limits(wanted)
        for folder in (root / files.folder, root):
            missing.append(missing_files(folder, limits))
            if not missing[-1]:
                contents = {part: read_file(find(folder, part), limit) for part, limit in limits.items()}
                return *_read_cifar(files, contents, folder, wanted), folder
        # Browsers may decompress the gzip and keep the tar archive.
        for archive in (root / files.archive, root / files.archive.removesuffix(".gz")):
            if is_there(archive):
                return *_read_cifar(files, read_members(archive, files.folder, limits), archive, wanted), archive
    raise download.missing(name, min(missing, key=len)[0], root)


def _read_cifar(
    files: CifarFiles, contents: Mapping[str, bytes], place: Path, wanted: Sequence[str]
) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    read = {
        part: [files.read(contents[file], str(place / file), rows) for file, rows in files.rows(part).items()]
        for part in wanted
    }
    origin = str(place / files.class_names)
    if files.names_key:
        names = _entry(_unpickle(contents[files.class_names], origin), files.names_key, origin)
    else:
        names = contents[files.class_names].decode("utf-8", "replace").split()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"{origin}: {files.names_key} is not a list of names; download it again")
    if len(set(names)) != files.num_classes or len(names) != files.num_classes:
        raise RequestError(f"{origin} has {len(set(names))} class names; expected {files.num_classes}; download it again")
    joined = {part: Labelled(*map(np.concatenate, zip(*files, strict=True))) for part, files in read.items()}
    return joined, tuple(names)


def read_cifar_binary(content: bytes, origin: str, rows: int, num_classes: int, label_bytes: int) -> Labelled:
    """Read rows of label bytes and 3072 pixels (channel, row, column), as on https://www.cs.toronto.edu/~kriz/cifar.html."""
    expected = rows * (label_bytes + _PIXELS)
    if len(content) != expected:
        raise RequestError(f"{origin} has {len(content)} bytes; expected {expected}; download it again")
    table = np.frombuffer(content, np.uint8).reshape(rows, label_bytes + _PIXELS)
    return Labelled(_to_images(table[:, label_bytes:]), checked_labels(table[:, label_bytes - 1], num_classes, origin))


def read_cifar_pickle(content: bytes, origin: str, rows: int, num_classes: int, label_key: str) -> Labelled:
    """Read a pickled dictionary of ``data`` ``(rows, 3072) uint8`` and labels, without calling any function in it."""
    batch = _unpickle(content, origin, at_least=rows * _PIXELS)
    data, labels = (_entry(batch, key, origin) for key in ("data", label_key))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (rows, _PIXELS):
        raise RequestError(f"{origin}: data is {_described(data)}; expected uint8 {(rows, _PIXELS)}; download it again")
    # Checked before numpy converts it, because numpy would expand nested lists of any size.
    if isinstance(labels, list) and all(type(label) is int and abs(label) < 2**31 for label in labels):
        labels = np.array(labels, np.int64)
    if not isinstance(labels, np.ndarray) or labels.shape != (rows,):
        expected = f"expected integers {(rows,)}"
        raise RequestError(f"{origin}: {label_key} is {_described(labels)}; {expected}; download it again")
    return Labelled(_to_images(data), checked_labels(labels, num_classes, origin))


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a {type(value).__name__}"


def _unpickle(content: bytes, origin: str, at_least: int = 1) -> dict[str, Any]:
    try:
        return read_pickle(content)
    except NamesError as error:
        raise RequestError(f"{origin} is not a CIFAR file: it contains {error}, which was not executed") from error
    except ValueError as error:
        raise RequestError(
            f"{origin} has {len(content)} bytes and is not a complete pickle ({error}); expected at least "
            f"{at_least} bytes; download it again"
        ) from error


def _entry(batch: Mapping[str, Any], key: str, origin: str) -> Any:
    if key not in batch:
        raise RequestError(f"{origin} has the keys {sorted(batch)[:10]}; expected {key!r} among them")
    return batch[key]


def _to_images(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert rows of (channel, row, column) to images ``(N, 32, 32, 3)``, contiguous so that reading an image is one copy."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
