"""Reading of the files of published data sets: plain, gzipped or in a tar archive, with size limits."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.config.files import open_regular

PARTS = ("train", "test")
_GZIP = b"\x1f\x8b"
_CHUNK = 2**20
_ARCHIVE_LIMIT = 2**30
"""Maximum size of an uncompressed archive in bytes; the largest supported one, CIFAR's, has 186 MB."""


class Labelled(NamedTuple):
    """Images ``(N, H, W, C) uint8`` and their labels ``(N,) int32``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_file(path: Path, limit: int) -> bytes:
    """Read a file; gzip is detected by content and decompressed.

    Args:
        limit: maximum size in bytes, both compressed and uncompressed.

    Raises:
        RequestError: the file cannot be read, is truncated, or exceeds the limit; the message names it.
    """
    try:
        with open_regular(path, limit) as file:
            is_packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if is_packed else file as content:
                return _read_up_to(content, limit)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{path} cannot be read: {reason}; download it again") from error


def read_members(archive: Path, folder: str, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Read files of a tar archive, gzipped or not, in one pass: seeking back would decompress it from the start.

    ``pooch.Untar`` is not used because it has no size limits and extracts all types of members to disk.

    Args:
        folder: their folder in the archive.
        limits: their names, and the maximum size of each in bytes.

    Raises:
        RequestError: the archive is truncated, lacks a file, or exceeds a limit.
    """
    contents: dict[str, bytes] = {}
    with _naming(archive), open_regular(archive, _ARCHIVE_LIMIT) as file:
        is_packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        stream = _Bounded(gzip.GzipFile(fileobj=file) if is_packed else file)
        with tarfile.open(fileobj=stream, mode="r|") as members:  # type: ignore[call-overload]  # to read is enough
            for member in members:
                name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                whole = member.isreg() and not member.issparse()
                if name in limits and whole and (opened := members.extractfile(member)) is not None:
                    contents[name] = _read_up_to(opened, limits[name])
    if lacking := [name for name in limits if name not in contents]:
        raise RequestError(f"{archive} does not contain {folder}/{lacking[0]}; download it again")
    return contents


def find(folder: Path, name: str) -> Path:
    """The path of a file, or of its gzipped form if only that exists."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if is_there(path)), folder / name)


def missing_files(folder: Path, wanted: Iterable[str]) -> list[Path]:
    """The wanted files that are not in the folder."""
    return [find(folder, name) for name in wanted if not is_there(find(folder, name))]


def is_there(path: Path) -> bool:
    """Whether a path exists and is not a folder; files that are not regular are rejected when they are read."""
    return path.exists() and not path.is_dir()


def checked_labels(labels: NDArray[np.integer[Any]], num_classes: int, origin: str) -> NDArray[np.int32]:
    """Convert labels to int32; ``RequestError`` names the first that is not from 0 to ``num_classes`` - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise RequestError(f"{origin}: label {labels[wrong[0]]} of sample {wrong[0]}; expected 0 to {num_classes - 1}")
    return labels.astype(np.int32)


class _Bounded:
    """Size-limited stream for tarfile, which would read any length, and continue at the end of a truncated stream."""

    def __init__(self, stream: _Stream) -> None:
        self._stream, self._left, self._ended = stream, _ARCHIVE_LIMIT, False

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes; empty at the end, but only once."""
        part = self._stream.read(min(size, _CHUNK))
        self._left -= len(part)
        if self._left < 0:
            raise ValueError(f"it decompresses to more than {_ARCHIVE_LIMIT} bytes")
        if not part and self._ended:
            raise EOFError("it is truncated")
        self._ended = not part
        return part


def _read_up_to(stream: _Stream, limit: int) -> bytes:
    """Read the rest of a stream; ``EOFError`` if it is longer than ``limit``."""
    parts, left = [], limit
    while part := stream.read(_CHUNK):
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise EOFError(f"it decompresses to more than the expected maximum of {limit} bytes")
    return b"".join(parts)


@contextmanager
def _naming(archive: Path) -> Iterator[None]:
    """Convert errors of tarfile, which have many types for a damaged archive, to ``RequestError`` with its name."""
    try:
        yield
    except (MemoryError, RequestError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{archive} is not a complete archive: {reason}; download it again") from error
