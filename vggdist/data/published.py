"""Reading the files of published data sets: found as people have them, unpacked, and never larger than is right."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.config.files import open_regular

PARTS = ("train", "test")
_GZIP = b"\x1f\x8b"
_CHUNK = 2**20
_ARCHIVE_LIMIT = 2**30
"""Bytes of an unpacked archive; the largest of those read here, CIFAR's, has 186 MB."""


class Labelled(NamedTuple):
    """Images ``(N, H, W, C) uint8`` and their labels ``(N,) int32``."""

    images: np.ndarray
    labels: np.ndarray


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_file(path: Path, limit: int) -> bytes:
    """The content of a file, unpacked where it is gzipped, whatever its name ends in.

    Args:
        limit: largest number of bytes, packed and unpacked.

    Raises:
        RequestError: it cannot be read, is not whole, or is larger; the file is named.
    """
    try:
        with open_regular(path, limit) as file:
            is_packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if is_packed else file as content:
                return _read_up_to(content, limit)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{path} cannot be read: {reason}; fetch it again") from error


def read_members(archive: Path, folder: str, limits: Mapping[str, int]) -> dict[str, bytes]:
    """The wanted files of a tar archive, gzipped or not, in one pass: going back in a compressed stream starts it anew.

    Args:
        folder: where they are in the archive.
        limits: their names, and the largest number of bytes of each.

    Raises:
        RequestError: the archive is not whole, lacks one of them, or holds more than is right.
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
        raise RequestError(f"{archive} does not hold {folder}/{lacking[0]}; fetch it again")
    return contents


def find(folder: Path, name: str) -> Path:
    """The file, or its gzipped form where only that is there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if is_there(path)), folder / name)


def gap(folder: Path, wanted: Iterable[str]) -> list[Path]:
    """The wanted files that the folder lacks."""
    return [find(folder, name) for name in wanted if not is_there(find(folder, name))]


def is_there(path: Path) -> bool:
    """Whether there is anything but a folder under a name; what is no regular file is refused when it is read."""
    return path.exists() and not path.is_dir()


def checked_labels(labels: np.ndarray, num_classes: int, origin: str) -> np.ndarray:
    """Labels as int32; ``RequestError`` names the first that is not from 0 to ``num_classes`` - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise RequestError(f"{origin}: label {labels[wrong[0]]} of sample {wrong[0]}; expected 0 to {num_classes - 1}")
    return labels.astype(np.int32)


class _Bounded:
    """A stream for tarfile, which would read one of any length, and go on reading at the end of one that is cut short."""

    def __init__(self, stream: _Stream) -> None:
        self._stream, self._left, self._ended = stream, _ARCHIVE_LIMIT, False

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end, once."""
        part = self._stream.read(min(size, _CHUNK))
        self._left -= len(part)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_ARCHIVE_LIMIT} bytes")
        if not part and self._ended:
            raise EOFError("it is cut short")
        self._ended = not part
        return part


def _read_up_to(stream: _Stream, limit: int) -> bytes:
    """All that is left of a stream; ``EOFError`` where it is more than ``limit``."""
    parts, left = [], limit
    while part := stream.read(_CHUNK):
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise EOFError(f"it unpacks to more than the {limit} bytes that are expected at most")
    return b"".join(parts)


@contextmanager
def _naming(archive: Path) -> Iterator[None]:
    """Name the archive in what tarfile raises at a damaged one: errors of all kinds."""
    try:
        yield
    except (MemoryError, RequestError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{archive} is not a whole archive: {reason}; fetch it again") from error
