"""MXNet's RecordIO files, ``.rec`` and ``.idx``: a strict reader by random access and a writer.

The format is that of dmlc-core's ``recordio.h``: each part of a record is a magic number, a word with the kind of part (3
bits) and its length (29 bits), the data, and zeros up to a multiple of four bytes. Data that hold the magic number at a
multiple of four are cut there into several parts. In a record of an image the data begin with MXNet's ``IRHeader`` (flag,
label, two ids). A line of the index is a key, a tab and the position of its record.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.data.decode import DamagedImageError

_MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", _MAGIC)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_MAX_LENGTH = 2**29 - 1
_IMAGE_HEADER = struct.Struct("<IfQQ")
_HEAD = np.dtype([("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])
_ADVICE = (
    "replace the file, see what is left of it with vggdist prepare --check; --data.damaged skip leaves out what is damaged "
    "when a run starts"
)


class ImageRecord(NamedTuple):
    """One record of an image."""

    key: int
    label: float
    content: bytes
    """The encoded image."""


class _CutShortError(DamagedImageError):
    """A record that goes on beyond the end of what was read."""


class RecordReader:
    """The records of a file, by number, in the order of its index. Reading is safe from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Open a ``.rec`` file and read the ``.idx`` file beside it.

        Raises:
            RequestError: one of them is missing or cannot be read, the index is not one, or the file ends before the last
                record that the index names.
        """
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
            status = os.fstat(self._file.fileno())
            index = path.with_suffix(".idx").read_bytes()
        except OSError as error:
            raise RequestError(f"{error.filename} cannot be read: {error.strerror}") from error
        self._size, self.stamp = status.st_size, f"{status.st_size} {status.st_mtime_ns}"
        self.keys, self.positions = _parse_index(path.with_suffix(".idx"), index)
        order = np.argsort(self.positions)
        self._ends = np.empty_like(self.positions)
        self._ends[order] = np.append(self.positions[order[1:]], self._size)
        self._require_whole(int(order[-1]))

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        """How a person finds a record: the file and the record's key."""
        return f"{self.path} key {self.keys[index]}"

    def read(self, index: int) -> ImageRecord:
        """One record; ``DamagedImageError`` names the file and the key where it is not as the format says."""
        start = int(self.positions[index])
        data = self._data(index, self._pread(start, int(self._ends[index]) - start))
        if len(data) < _IMAGE_HEADER.size:
            raise self._damaged(index, f"{len(data)} bytes are too few for an image's header")
        flag, label, _, _ = _IMAGE_HEADER.unpack_from(data)
        begin = _IMAGE_HEADER.size
        if flag:
            if flag != 1 or len(data) < begin + 4:
                raise self._damaged(index, f"it has {flag} labels, one is expected")
            (label,) = struct.unpack_from("<f", data, begin)
            begin += 4
        return ImageRecord(int(self.keys[index]), label, bytes(data[begin:]))

    def labels(self) -> tuple[np.ndarray, dict[int, str]]:
        """The label of every record, from its header alone.

        Returns:
            ``(N,) float32``, and what is wrong with each record whose header is damaged.
        """
        raw = b"".join(self._pread(int(start), _HEAD.itemsize).ljust(_HEAD.itemsize, b"\0") for start in self.positions)
        heads = np.frombuffer(raw, _HEAD)
        labels = heads["label"].copy()
        damage = {
            int(place): str(self._damaged(place, "it does not begin as a record does"))
            for place in np.flatnonzero(heads["magic"] != _MAGIC)
        }
        for place in np.flatnonzero(heads["flag"] != 0).tolist():  # the label then stands behind the header
            try:
                labels[place] = self.read(place).label
            except DamagedImageError as error:
                damage[place] = str(error)
        for place in np.flatnonzero(~((labels >= 0) & (labels < 2**24) & (labels == np.floor(labels)))).tolist():
            damage.setdefault(place, str(self._damaged(place, f"its label {labels[place]} is not the number of a class")))
        return labels, damage

    def _pread(self, position: int, size: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), size, position)
        except OSError as error:
            raise RequestError(f"{self.path} cannot be read: {error.strerror}") from error

    def _data(self, index: int, raw: bytes) -> memoryview:
        """The data of the record at the beginning of ``raw``; not copied where they are of one part."""
        view, parts = memoryview(raw), list[memoryview]()
        position, expected = 0, (_WHOLE, _FIRST)
        while True:
            if len(raw) < position + 8:
                raise _CutShortError(str(self._damaged(index, "it is cut short")))
            magic, word = struct.unpack_from("<II", raw, position)
            kind, length = word >> 29, word & _MAX_LENGTH
            if magic != _MAGIC or kind not in expected:
                raise self._damaged(index, "it does not begin as a record does" if not parts else "a part of it is missing")
            part = view[position + 8 : position + 8 + length]
            if len(part) < length:
                raise _CutShortError(str(self._damaged(index, f"{len(part)} of {length} bytes are there")))
            parts.append(part)
            if kind in (_WHOLE, _LAST):
                return part if kind == _WHOLE else memoryview(_MAGIC_BYTES.join(parts))
            position += 8 + length + -length % 4
            expected = (_MIDDLE, _LAST)

    def _require_whole(self, last: int) -> None:
        beyond = int((self.positions >= self._size).sum())
        whole = not beyond
        if whole:
            start = int(self.positions[last])
            try:
                self._data(last, self._pread(start, self._size - start))
            except _CutShortError:
                whole = False
            except DamagedImageError:
                pass  # damaged in itself, which is told when it is read
        if not whole:
            raise RequestError(
                f"{self.path} is cut short at {self._size} bytes: {max(1, beyond)} of the {len(self)} records in its index "
                f"are not all there; copy it again"
            )

    def _damaged(self, index: int, reason: str) -> DamagedImageError:
        return DamagedImageError(f"{self.name(index)} is damaged: {reason}; {_ADVICE}")


class RecordWriter:
    """Appends records to a ``.rec`` file and their lines to an index."""

    def __init__(self, record_file: BinaryIO, index_file: BinaryIO) -> None:
        """Go on at the end of both files."""
        self._records, self._index = record_file, index_file
        self._position = record_file.seek(0, os.SEEK_END)
        index_file.seek(0, os.SEEK_END)

    def write(self, record: ImageRecord) -> None:
        """Append one image; its line in the index is written after it."""
        data = _IMAGE_HEADER.pack(0, record.label, record.key, 0) + record.content
        if len(data) > _MAX_LENGTH:
            raise RequestError(f"an image of {len(record.content)} bytes is too large for a record")
        framed = frame(data)
        self._records.write(framed)
        self._records.flush()
        self._index.write(b"%d\t%d\n" % (record.key, self._position))
        self._index.flush()
        self._position += len(framed)


def frame(data: bytes) -> bytes:
    """A record of ``data`` as it stands in a file."""
    cuts, place = [], data.find(_MAGIC_BYTES)
    while place >= 0:
        if place % 4 == 0:
            cuts.append(place)
        place = data.find(_MAGIC_BYTES, place + (4 if place % 4 == 0 else 1))
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(data)]
    kinds = [_WHOLE] if not cuts else [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST]
    parts = [
        struct.pack("<II", _MAGIC, kind << 29 | end - start) + data[start:end] for kind, start, end in zip(kinds, starts, ends)
    ]
    return b"".join(parts) + bytes(-len(data) % 4)


def _parse_index(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Keys and positions, ``(N,) int64`` each."""
    if not content:
        raise RequestError(f"{path} is empty: it names no record")
    keys, positions = [], []
    for number, line in enumerate(content.split(b"\n")[: None if not content.endswith(b"\n") else -1], start=1):
        key, tab, position = line.rstrip(b"\r").partition(b"\t")
        if not (tab and key.isdigit() and position.isdigit() and int(position) % 4 == 0):
            raise RequestError(f"line {number} of {path} is {line[:40]!r}; expected a key, a tab and a multiple of four")
        keys.append(int(key))
        positions.append(int(position))
    for what, values in (("key", keys), ("position", positions)):
        if len(set(values)) < len(values):
            raise RequestError(f"{path} names a {what} twice; it is no index of records")
    return np.array(keys, np.int64), np.array(positions, np.int64)
