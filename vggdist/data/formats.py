"""Strict readers of published files: CIFAR in its binary and pickled distributions, and MNIST's idx.

The readers take the content of a file and its origin, a name for messages. Whatever is not exactly as published is
refused with the sizes found and expected: a truncated file that trains is worse than one that stops.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.data import download

_PIXELS = 3 * 32 * 32
_PICKLE_MAY_NAME = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
_BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError)


class Labelled(NamedTuple):
    """Images ``(N, H, W, C) uint8`` and their labels ``(N,) int32``."""

    images: np.ndarray
    labels: np.ndarray


Parts = tuple[Labelled, Labelled, tuple[str, ...]]
"""Training part, test part, class names."""


@dataclass(frozen=True)
class CifarFiles:
    """One distribution of CIFAR: its files, and how many images each must hold."""

    folder: str
    archive: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    class_names: str
    num_classes: int
    label_bytes: int = 0
    """Bytes before each image; the last is the (fine) label. 0: the files are pickles, with these two keys."""
    label_key: str = ""
    names_key: str = ""

    def read(self, content: bytes, origin: str, rows: int) -> Labelled:
        """Read one file of this distribution."""
        if self.label_bytes:
            return read_cifar_binary(content, origin, rows, self.num_classes, self.label_bytes)
        return read_cifar_pickle(content, origin, rows, self.num_classes, self.label_key)


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


def load_cifar(name: str, root: Path) -> Parts:
    """Read the training part, the test part and the class names of cifar10 or cifar100.

    Each distribution is looked for in its own folder, in ``root`` itself and in its archive; the first found is used.

    Raises ``MissingFileError``, naming the first one lacking where most are there, and ``RequestError`` where a file is
    not as published.
    """
    gaps = []
    for files in CIFAR[name]:
        wanted = (*files.train, *files.test, files.class_names)
        for folder in (root / files.folder, root):
            gaps.append(_gap(folder, wanted))
            if not gaps[-1]:
                return _read_cifar(files, {part: read_file(_find(folder, part)) for part in wanted}, folder)
        if (root / files.archive).is_file():
            return _read_cifar(files, _read_members(root / files.archive, files.folder, wanted), root / files.archive)
    raise download.missing(name, min(gaps, key=len)[0], root)


def _read_cifar(files: CifarFiles, contents: Mapping[str, bytes], place: Path) -> Parts:
    train, test = (
        [files.read(contents[part], str(place / part), rows) for part, rows in parts.items()]
        for parts in (files.train, files.test)
    )
    origin = str(place / files.class_names)
    if files.names_key:
        names = _entry(_unpickle(contents[files.class_names], origin), files.names_key, origin)
    else:
        names = _text(contents[files.class_names]).split()
    if len(names) != files.num_classes:
        raise RequestError(f"{origin} names {len(names)} classes; expected {files.num_classes}")
    train_part, test_part = (Labelled(*map(np.concatenate, zip(*parts, strict=True))) for parts in (train, test))
    return train_part, test_part, tuple(_text(name) for name in names)


def load_idx(name: str, root: Path, folder: str) -> tuple[Labelled, Labelled]:
    """Read the training and test part of mnist or fashion_mnist, gzipped or not, from ``root/folder`` or ``root``.

    Raises ``MissingFileError`` where neither holds all four, ``RequestError`` where a file is not as published.
    """
    wanted = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    place = min((root / folder, root), key=lambda candidate: len(_gap(candidate, wanted)))
    if gap := _gap(place, wanted):
        raise download.missing(name, gap[0], root)
    paths = [_find(place, part) for part in wanted]
    return _idx_part(*paths[:2]), _idx_part(*paths[2:])


def _idx_part(images_path: Path, labels_path: Path) -> Labelled:
    images = read_idx(read_file(images_path), str(images_path), (28, 28))
    labels = read_idx(read_file(labels_path), str(labels_path), ())
    if len(images) != len(labels):
        raise RequestError(f"{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels")
    return Labelled(images[..., None], _checked_labels(labels, 10, str(labels_path)))


def read_cifar_binary(content: bytes, origin: str, rows: int, num_classes: int, label_bytes: int) -> Labelled:
    """Read rows of label bytes and 3072 pixels (channel, row, column), as on https://www.cs.toronto.edu/~kriz/cifar.html."""
    expected = rows * (label_bytes + _PIXELS)
    if len(content) != expected:
        raise RequestError(f"{origin} has {len(content)} bytes; expected {expected}; fetch it again")
    table = np.frombuffer(content, np.uint8).reshape(rows, label_bytes + _PIXELS)
    return Labelled(_upright(table[:, label_bytes:]), _checked_labels(table[:, label_bytes - 1], num_classes, origin))


def read_cifar_pickle(content: bytes, origin: str, rows: int, num_classes: int, label_key: str) -> Labelled:
    """Read a pickled dictionary of ``data`` ``(rows, 3072) uint8`` and labels without running anything in it."""
    batch = _unpickle(content, origin, at_least=rows * _PIXELS)
    data, labels = (np.asarray(_entry(batch, key, origin)) for key in ("data", label_key))
    if data.dtype != np.uint8 or data.shape != (rows, _PIXELS):
        raise RequestError(f"{origin}: data is {data.dtype} {data.shape}; expected uint8 {(rows, _PIXELS)}")
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise RequestError(f"{origin}: {label_key} is {labels.dtype} {labels.shape}; expected whole numbers {(rows,)}")
    return Labelled(_upright(data), _checked_labels(labels, num_classes, origin))


def read_idx(content: bytes, origin: str, item_shape: tuple[int, ...]) -> np.ndarray:
    """Read an idx file of unsigned bytes: ``(N, *item_shape) uint8`` (format: http://yann.lecun.com/exdb/mnist/)."""
    rank = 1 + len(item_shape)
    header, magic = 4 + 4 * rank, bytes((0, 0, 8, rank))
    if content[:4] != magic or len(content) < header:
        raise RequestError(
            f"{origin} has {len(content)} bytes and starts with {content[:4].hex()}; expected "
            f"{magic.hex()} and a header of {header} bytes"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", rank, 4))
    if shape[1:] != item_shape:
        raise RequestError(f"{origin} holds items of {shape[1:]}; expected {item_shape}")
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise RequestError(f"{origin} has {len(content)} bytes; expected {expected} for {shape[0]} items; fetch anew")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_file(path: Path) -> bytes:
    """The content of a file, decompressed where its name ends in ``.gz``; ``RequestError`` names a broken one."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except _BROKEN as error:
        raise RequestError(f"{path} ({path.stat().st_size} bytes) cannot be read: {error}; fetch it again") from error


def _read_members(archive: Path, folder: str, wanted: Sequence[str]) -> dict[str, bytes]:
    """The wanted files of a tar archive, in one pass: going back in a compressed stream starts it anew."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                if name in wanted and (opened := members.extractfile(member)) is not None:
                    contents[name] = opened.read()
    except _BROKEN as error:
        raise RequestError(f"{archive} ({archive.stat().st_size} bytes) is broken: {error}; fetch it again") from error
    if lacking := [name for name in wanted if name not in contents]:
        raise RequestError(f"{archive} does not hold {folder}/{lacking[0]}; fetch it again")
    return contents


class _DataUnpickler(pickle.Unpickler):
    """Builds arrays and plain values; a pickle that names anything else is refused before it runs."""

    def __init__(self, content: bytes, origin: str) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")  # Python 2 wrote CIFAR's files
        self._origin = origin

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_MAY_NAME:
            raise RequestError(f"{self._origin} is no CIFAR file: it names {module}.{name}, which was not run")
        return super().find_class(module, name)


def _unpickle(content: bytes, origin: str, at_least: int = 1) -> dict[str, Any]:
    try:
        found = _DataUnpickler(content, origin).load()
    except RequestError:  # from find_class
        raise
    except Exception as error:  # a broken pickle fails with whatever its bytes happen to mean
        raise RequestError(
            f"{origin} has {len(content)} bytes and is not a whole pickle ({error}); expected at least "
            f"{at_least} bytes; fetch it again"
        ) from error
    if not isinstance(found, dict):
        raise RequestError(f"{origin} holds a {type(found).__name__}; expected a dictionary")
    return {_text(key): value for key, value in found.items()}


def _entry(batch: Mapping[str, Any], key: str, origin: str) -> Any:
    if key not in batch:
        raise RequestError(f"{origin} has the keys {sorted(batch)}; expected {key!r} among them")
    return batch[key]


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _find(folder: Path, name: str) -> Path:
    """The file, or its gzipped form where only that is there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), folder / name)


def _gap(folder: Path, wanted: Sequence[str]) -> list[Path]:
    """The wanted files that the folder lacks."""
    return [_find(folder, name) for name in wanted if not _find(folder, name).is_file()]


def _upright(rows: np.ndarray) -> np.ndarray:
    """Rows of (channel, row, column) to images ``(N, 32, 32, 3)``, contiguous so that reading one is one copy."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _checked_labels(labels: np.ndarray, num_classes: int, origin: str) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise RequestError(f"{origin}: label {labels[wrong[0]]} of sample {wrong[0]}; expected 0 to {num_classes - 1}")
    return labels.astype(np.int32)
