"""Strict random-access reader of MXNet's RecordIO files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.config.files import open_regular, read_regular
from vggdist.config.text import printable
from vggdist.data.decode import DamagedImageError
from vggdist.data.recordio import (
    FIRST,
    IMAGE_HEADER,
    LAST,
    MAGIC,
    MAGIC_BYTES,
    MAX_LABELS,
    MAX_LENGTH,
    MIDDLE,
    WHOLE,
    ImageRecord,
    parse_index,
    record_end,
)

_HEAD = np.dtype([("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])
_INDEX_LIMIT = 2**30  # bytes of an index: 50 million records
_MAX_BYTES = 2**29 + 2**16  # of a record with all its parts
_ADVICE = "replace the file, or leave out damaged images with --data.damaged skip; vggdist prepare --check lists them"


class RecordReader:
    """The records of a file in the order of its index. Reading is thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open a ``.rec`` file and read its ``.idx`` file; without an index, the record file is scanned.

        Raises:
            RequestError: a file cannot be read or is invalid, or the record file ends before the last record of the index.
        """
        self.path, self.index_path = path, path.with_suffix(".idx")
        try:
            self._file = open_regular(path, buffering=0)
            status = os.fstat(self._file.fileno())
            index = read_regular(self.index_path, _INDEX_LIMIT) if os.path.lexists(self.index_path) else None
        except OSError as error:
            raise RequestError(f"{error.filename} cannot be read: {error.strerror}") from error
        self._size, self.stamp = status.st_size, f"{status.st_size} {status.st_mtime_ns}"
        self.has_index = index is not None
        if index is not None:
            self.keys, self.positions = parse_index(self.index_path, index)
        else:
            self.positions = self._scan()
            self.keys = np.arange(len(self.positions))
        # im2rec.py writes duplicate keys if all images have the same number in its list file.
        self._keys_differ = self.has_index and len(np.unique(self.keys)) == len(self.keys)
        order = np.argsort(self.positions)
        self._ends = np.empty_like(self.positions)
        self._ends[order] = np.append(self.positions[order[1:]], self._size)
        self._require_whole(int(order[-1]))

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, index: int) -> str:
        """Name of a record for messages: the file and the record's key, or its number if the keys are not unique."""
        path = printable(self.path)
        return f"{path} key {self.keys[index]}" if self._keys_differ else f"{path} record {index}"

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes from each record to the next one in the file: ``(N,) int64``."""
        return self._ends - self.positions

    def read(self, index: int) -> ImageRecord:
        """Read one record; ``DamagedImageError`` with the file and the key if it violates the format."""
        start, size = int(self.positions[index]), int(self.lengths[index])
        if size > _MAX_BYTES:
            raise self._damaged(index, f"it has {size} bytes; expected at most {_MAX_BYTES}")
        data = self._data(index, self._pread(start, size))
        if len(data) < IMAGE_HEADER.size:
            raise self._damaged(index, f"it has {len(data)} bytes, fewer than an image header")
        flag, label, _, _ = IMAGE_HEADER.unpack_from(data)
        begin = IMAGE_HEADER.size
        if flag:
            if flag != 1 or len(data) < begin + 4:
                raise self._damaged(index, f"it has {flag} labels; expected one")
            (label,) = struct.unpack_from("<f", data, begin)
            begin += 4
        return ImageRecord(int(self.keys[index]), label, bytes(data[begin:]))

    def labels(self) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Read the label of every record from its header.

        Returns:
            ``(N,) float32``, and the error of each record with a damaged header.

        Raises:
            RequestError: the file has records that are not in the index, or several labels per image.
        """
        raw = b"".join(self._pread(int(start), _HEAD.itemsize).ljust(_HEAD.itemsize, b"\0") for start in self.positions)
        heads = np.frombuffer(raw, _HEAD)
        self._require_one_label(heads["flag"])
        labels = heads["label"].copy()
        damage = self._misplaced(heads)
        for place in np.flatnonzero(heads["flag"] != 0).tolist():  # the label is then behind the header
            try:
                labels[place] = self.read(place).label
            except DamagedImageError as error:
                damage.setdefault(place, str(error))
        for place in np.flatnonzero(~((labels >= 0) & (labels < MAX_LABELS) & (labels == np.floor(labels)))).tolist():
            damage.setdefault(place, str(self._damaged(place, f"its label {labels[place]} is not a class number")))
        return labels, damage

    def _require_one_label(self, flags: NDArray[np.uint32]) -> None:
        several = flags > 1
        if 2 * np.count_nonzero(several) > len(flags):  # in a minority of the records the header is damaged instead
            raise RequestError(
                f"{self.path} has several labels per image ({flags[several][0]} in {self.name(int(several.argmax()))}); "
                f"expected one: create the file again from a list of key, label and path, with a label_width of 1 and without "
                f"im2rec's --pack-label"
            )

    def _misplaced(self, heads: NDArray[np.void]) -> dict[int, str]:
        """The error of each record that does not start at its position in the index or does not end at the next record.

        Raises:
            RequestError: complete records are not in the index, or a position of the index is inside a record.
        """
        kinds, lengths = heads["word"] >> 29, (heads["word"] & MAX_LENGTH).astype(np.int64)
        starts = (heads["magic"] == MAGIC) & ((kinds == WHOLE) | (kinds == FIRST))
        if 2 * np.count_nonzero(starts) < len(starts):
            raise RequestError(
                f"{self.path} has no record at {np.count_nonzero(~starts)} of the {len(starts)} positions in "
                f"{self.index_path}: the files do not belong together; copy both again"
            )
        ends = self.positions + 8 + lengths + -lengths % 4
        damage = {}
        unlisted = self._count(0, int(self.positions.min()))
        for place in np.flatnonzero(~starts | (ends != self._ends)).tolist():
            if not starts[place]:
                damage[place] = str(self._damaged(place, "it does not start with a record header"))
                continue
            end, limit = self._complete_end(int(self.positions[place])), int(self._ends[place])
            if end is not None and end < limit:
                unlisted += (between := self._count(end, limit))
                if not between:
                    next_one = "the next one" if limit < self._size else "the end of the file"
                    damage[place] = str(self._damaged(place, f"it ends {limit - end} bytes before {next_one}"))
            elif end is not None and end > limit and (end == self._size or self._complete_end(end) is not None):
                raise RequestError(
                    f"position {limit} in {self.index_path} is inside {self.name(place)}: the index is of another file; copy "
                    f"both again, or remove the index to read the records in file order"
                )
            elif end != limit:
                damage[place] = self._reason(place)
        if unlisted:
            raise RequestError(
                f"{self.index_path} lists {len(self)} of at least {len(self) + unlisted} records of {self.path}: it is "
                f"truncated or of another file; copy it again, or remove it to read the records in file order"
            )
        return damage

    def _reason(self, place: int) -> str:
        """The error message of a record that cannot be read."""
        try:
            self.read(place)
        except DamagedImageError as error:
            return str(error)
        return str(self._damaged(place, "it does not end where the next one starts"))

    def _end(self, position: int) -> int | None:
        """The end of the record at a position, see :func:`record_end`."""
        return record_end(lambda place: self._pread(place, 8), position, self._size)

    def _complete_end(self, position: int) -> int | None:
        """The end of the record at a position; None if there is no complete record."""
        end = self._end(position)
        return end if end is not None and end <= self._size else None

    def _count(self, position: int, limit: int) -> int:
        """The number of complete consecutive records from a position on."""
        count = 0
        while position < limit and (end := self._complete_end(position)) is not None:
            position, count = end, count + 1
        return count

    def _scan(self) -> NDArray[np.int64]:
        """The positions of all records of a file without an index: ``(N,) int64``."""
        positions: list[int] = []
        position = 0
        while position < self._size:
            end = self._complete_end(position)
            if end is None:
                raise RequestError(
                    f"{self.path} is damaged or truncated at byte {position} of {self._size}, after {len(positions)} records; "
                    f"the other records cannot be found because {self.index_path} is missing; copy both files again"
                )
            positions.append(position)
            position = end
        if not positions:
            raise RequestError(f"{self.path} is empty: it has no record")
        return np.array(positions, np.int64)

    def _pread(self, position: int, size: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), size, position)
        except OSError as error:
            raise RequestError(f"{self.path} cannot be read: {error.strerror}") from error

    def _data(self, index: int, raw: bytes) -> memoryview:
        """The data of the record at the start of ``raw``; a record of one part is not copied."""
        view, parts = memoryview(raw), list[memoryview]()
        position, expected = 0, (WHOLE, FIRST)
        while True:
            if len(raw) < position + 8:
                raise self._damaged(index, "it is truncated")
            magic, word = struct.unpack_from("<II", raw, position)
            kind, length = word >> 29, word & MAX_LENGTH
            if magic != MAGIC or kind not in expected:
                reason = "it does not start with a record header" if not parts else "a part of it is missing"
                raise self._damaged(index, reason)
            part = view[position + 8 : position + 8 + length]
            if len(part) < length:
                raise self._damaged(index, f"it has {len(part)} of {length} bytes")
            parts.append(part)
            if kind in (WHOLE, LAST):
                return part if kind == WHOLE else memoryview(MAGIC_BYTES.join(parts))
            position += 8 + length + -length % 4
            expected = (MIDDLE, LAST)

    def _require_whole(self, last: int) -> None:
        """Raise ``RequestError`` if the file ends before its last record."""
        beyond = int((self.positions >= self._size).sum())
        end = self._end(int(self.positions[last])) if not beyond else None
        if beyond or (end is not None and end > self._size):
            raise RequestError(
                f"{self.path} is truncated at {self._size} bytes: {max(1, beyond)} of the {len(self)} records in its index "
                f"are incomplete; copy it again"
            )

    def _damaged(self, index: int, reason: str) -> DamagedImageError:
        return DamagedImageError(f"{self.name(index)} is damaged: {reason}; {_ADVICE}")
