"""Strict reader of the idx files of MNIST and Fashion-MNIST, under the names that archivers and other libraries use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.data import download
from vggdist.data.published import PARTS, Labelled, checked_labels, read_file

_LIMIT = 2**28
"""Maximum size of an uncompressed file in bytes; MNIST's largest has 47 MB."""
_PREFIXES, _KINDS = {"train": "train", "test": "t10k"}, ("images-idx3", "labels-idx1")
_NAME = re.compile(r"(train|t10k)-(images|labels)[-.](idx[13])-ubyte(\.gz)?", re.IGNORECASE)
# Folders below data.root: the publisher's and torchvision's.
_FOLDERS = {"mnist": ("mnist",), "fashion_mnist": ("fashion-mnist", "fashionmnist")}


def load_idx(name: str, root: Path, wanted: Sequence[str] = PARTS) -> tuple[dict[str, Labelled], Path]:
    """Read parts of mnist or fashion_mnist; return them by name, and the path of the folder.

    The files may be gzipped or not, regardless of the suffix. They are searched in ``root`` and below it in the publisher's
    folder and torchvision's (``MNIST/raw/``), each also inside a folder of its own name, and as ``train-images.idx3-ubyte``.

    Args:
        wanted: ``train`` or ``test`` or both; the files of other parts are not needed.

    Raises:
        MissingFileError: no folder has all files.
        RequestError: a file is not as published.
    """
    files = {part: [f"{_PREFIXES[part]}-{kind}-ubyte" for kind in _KINDS] for part in wanted}
    needed = [file for pair in files.values() for file in pair]
    places = {place: _files(place) for place in _places(root, _FOLDERS[name])}
    place, paths = max(places.items(), key=lambda found: len({*needed} & {*found[1]}))
    if lacking := [file for file in needed if file not in paths]:
        raise download.missing(name, place / lacking[0], root)
    return {part: _part(*(paths[file] for file in pair)) for part, pair in files.items()}, place


def _places(root: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    """The folders to search, in order of priority."""
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for path in below:
        if path.name.lower() in folders:
            yield path
            yield path / "raw"
    yield root
    yield root / "raw"


def _files(place: Path) -> dict[str, Path]:
    """The data files in a folder; of several for one, the one with the published name, uncompressed, is preferred."""
    found: dict[str, list[Path]] = {}
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        if match := _NAME.fullmatch(path.name):
            candidates = [inner for inner in path.iterdir() if _NAME.fullmatch(inner.name)] if path.is_dir() else [path]
            found.setdefault("{}-{}-{}-ubyte".format(*match.groups()).lower(), []).extend(candidates)
    return {
        wanted: min(paths, key=lambda path: (path.stem != wanted, path.suffix.lower() == ".gz", path))
        for wanted, paths in found.items()
        if paths
    }


def _part(images_path: Path, labels_path: Path) -> Labelled:
    images = read_idx(read_file(images_path, _LIMIT), str(images_path), (28, 28))
    labels = read_idx(read_file(labels_path, _LIMIT), str(labels_path), ())
    if len(images) != len(labels):
        raise RequestError(f"{images_path} has {len(images)} images but {labels_path} has {len(labels)} labels")
    return Labelled(images[..., None], checked_labels(labels, 10, str(labels_path)))


def read_idx(content: bytes, origin: str, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
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
        raise RequestError(f"{origin} has items of shape {shape[1:]}; expected {item_shape}")
    expected = header + int(np.prod(shape, dtype=np.int64))
    if shape[0] == 0 or len(content) != expected:
        raise RequestError(f"{origin} has {len(content)} bytes; expected {expected} for {shape[0]} items; fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
