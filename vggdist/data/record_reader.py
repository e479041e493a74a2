"""A strict reader of MXNet's RecordIO files by random access."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

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
    MAX_LENGTH,
    MIDDLE,
    MOST_LABELS,
    WHOLE,
    ImageRecord,
    parse_index,
    record_end,
)

_HEAD = np.dtype([("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])
_INDEX_LIMIT = 2**30  # bytes of an index: 50 million records
_MOST_BYTES = 2**29 + 2**16  # of a record with all its parts
_ADVICE = "replace the file, or leave out all that is damaged with --data.damaged skip; vggdist prepare --check lists them"


class RecordReader:
    """The records of a file, by number, in the order of its index. Reading is safe from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Open a ``.rec`` file and read the ``.idx`` file beside it; without one, the records are found one after the other.

        Raises:
            RequestError: one of them cannot be read or is none, or the record file ends before the last record that the
                index lists.
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
            self.positions = self._found_in_order()
            self.keys = np.arange(len(self.positions))
        # im2rec.py writes one key many times where the list gives all images the same number.
        self._keys_differ = self.has_index and len(np.unique(self.keys)) == len(self.keys)
        order = np.argsort(self.positions)
        self._ends = np.empty_like(self.positions)
        self._ends[order] = np.append(self.positions[order[1:]], self._size)
        self._require_whole(int(order[-1]))

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, index: int) -> str:
        """How a person finds a record: the file and the record's key, or its place where it has no key of its own."""
        path = printable(self.path)
        return f"{path} key {self.keys[index]}" if self._keys_differ else f"{path} record {index}"

    @property
    def lengths(self) -> np.ndarray:
        """Bytes from each record to the next one in the file: ``(N,) int64``."""
        return self._ends - self.positions

    def read(self, index: int) -> ImageRecord:
        """One record; ``DamagedImageError`` names the file and the key where it is not as the format says."""
        start, size = int(self.positions[index]), int(self.lengths[index])
        if size > _MOST_BYTES:
            raise self._damaged(index, f"it has {size} bytes, more than any image")
        data = self._data(index, self._pread(start, size))
        if len(data) < IMAGE_HEADER.size:
            raise self._damaged(index, f"{len(data)} bytes are too few for an image's header")
        flag, label, _, _ = IMAGE_HEADER.unpack_from(data)
        begin = IMAGE_HEADER.size
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

        Raises:
            RequestError: the file holds records that the index does not list, or several labels for each image.
        """
        raw = b"".join(self._pread(int(start), _HEAD.itemsize).ljust(_HEAD.itemsize, b"\0") for start in self.positions)
        heads = np.frombuffer(raw, _HEAD)
        self._require_one_label(heads["flag"])
        labels = heads["label"].copy()
        damage = self._misplaced(heads)
        for place in np.flatnonzero(heads["flag"] != 0).tolist():  # the label then stands behind the header
            try:
                labels[place] = self.read(place).label
            except DamagedImageError as error:
                damage.setdefault(place, str(error))
        for place in np.flatnonzero(~((labels >= 0) & (labels < MOST_LABELS) & (labels == np.floor(labels)))).tolist():
            damage.setdefault(place, str(self._damaged(place, f"its label {labels[place]} is not the number of a class")))
        return labels, damage

    def _require_one_label(self, flags: np.ndarray) -> None:
        several = flags > 1
        if 2 * np.count_nonzero(several) > len(flags):  # a damaged header is the exception
            raise RequestError(
                f"{self.path} has several labels for each image ({flags[several][0]} in {self.name(int(several.argmax()))}); "
                f"one label for each image is expected: make it anew from a list of key, label and path, with a label_width "
                f"of 1 and without im2rec's --pack-label"
            )

    def _misplaced(self, heads: np.ndarray) -> dict[int, str]:
        """What is wrong with each record that does not begin where it is listed, or does not end where the next begins.

        Raises:
            RequestError: there are whole records that the index does not list, or it lists what is within one.
        """
        kinds, lengths = heads["word"] >> 29, (heads["word"] & MAX_LENGTH).astype(np.int64)
        starts = (heads["magic"] == MAGIC) & ((kinds == WHOLE) | (kinds == FIRST))
        if 2 * np.count_nonzero(starts) < len(starts):
            raise RequestError(
                f"no record of {self.path} begins at {np.count_nonzero(~starts)} of the {len(starts)} positions in "
                f"{self.index_path}: the two are not of one data set; copy both again"
            )
        ends = self.positions + 8 + lengths + -lengths % 4
        damage = {}
        unlisted = self._count(0, int(self.positions.min()))
        for place in np.flatnonzero(~starts | (ends != self._ends)).tolist():
            if not starts[place]:
                damage[place] = str(self._damaged(place, "it does not begin as a record does"))
                continue
            end, limit = self._whole_end_of(int(self.positions[place])), int(self._ends[place])
            if end is not None and end < limit:
                unlisted += (beside := self._count(end, limit))
                if not beside:
                    next_one = "the next one" if limit < self._size else "the end of the file"
                    damage[place] = str(self._damaged(place, f"it ends {limit - end} bytes before {next_one}"))
            elif end is not None and end > limit and (end == self._size or self._whole_end_of(end) is not None):
                raise RequestError(
                    f"position {limit} in {self.index_path} is within {self.name(place)}: the index is not of this file; copy "
                    f"both again, or remove the index, and the records are read in their order"
                )
            elif end != limit:
                damage[place] = self._reason(place)
        if unlisted:
            raise RequestError(
                f"{self.index_path} lists {len(self)} of at least {len(self) + unlisted} records of {self.path}: it is cut "
                f"short, or of another file; copy it again, or remove it, and the records are read in their order"
            )
        return damage

    def _reason(self, place: int) -> str:
        """Why a record cannot be read."""
        try:
            self.read(place)
        except DamagedImageError as error:
            return str(error)
        return str(self._damaged(place, "it does not end where the next one begins"))

    def _end_of(self, position: int) -> int | None:
        """Where the record at a position ends, as :func:`record_end` has it."""
        return record_end(lambda place: self._pread(place, 8), position, self._size)

    def _whole_end_of(self, position: int) -> int | None:
        """Where the record at a position ends; None where there is none or it is not all there."""
        end = self._end_of(position)
        return end if end is not None and end <= self._size else None

    def _count(self, position: int, limit: int) -> int:
        """How many whole records stand one after the other from a position on."""
        count = 0
        while position < limit and (end := self._whole_end_of(position)) is not None:
            position, count = end, count + 1
        return count

    def _found_in_order(self) -> np.ndarray:
        """The positions of all records of a file without an index: ``(N,) int64``."""
        positions: list[int] = []
        position = 0
        while position < self._size:
            end = self._whole_end_of(position)
            if end is None:
                raise RequestError(
                    f"{self.path} is damaged or cut short at byte {position} of {self._size}, after {len(positions)} records; "
                    f"the rest cannot be found without an index, and {self.index_path} is missing; copy both files again"
                )
            positions.append(position)
            position = end
        if not positions:
            raise RequestError(f"{self.path} is empty: it holds no record")
        return np.array(positions, np.int64)

    def _pread(self, position: int, size: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), size, position)
        except OSError as error:
            raise RequestError(f"{self.path} cannot be read: {error.strerror}") from error

    def _data(self, index: int, raw: bytes) -> memoryview:
        """The data of the record at the beginning of ``raw``; not copied where they are of one part."""
        view, parts = memoryview(raw), list[memoryview]()
        position, expected = 0, (WHOLE, FIRST)
        while True:
            if len(raw) < position + 8:
                raise self._damaged(index, "it is cut short")
            magic, word = struct.unpack_from("<II", raw, position)
            kind, length = word >> 29, word & MAX_LENGTH
            if magic != MAGIC or kind not in expected:
                raise self._damaged(index, "it does not begin as a record does" if not parts else "a part of it is missing")
            part = view[position + 8 : position + 8 + length]
            if len(part) < length:
                raise self._damaged(index, f"{len(part)} of {length} bytes are there")
            parts.append(part)
            if kind in (WHOLE, LAST):
                return part if kind == WHOLE else memoryview(MAGIC_BYTES.join(parts))
            position += 8 + length + -length % 4
            expected = (MIDDLE, LAST)

    def _require_whole(self, last: int) -> None:
        """Refuse a file that ends before the record at its end does."""
        beyond = int((self.positions >= self._size).sum())
        end = self._end_of(int(self.positions[last])) if not beyond else None
        if beyond or (end is not None and end > self._size):
            raise RequestError(
                f"{self.path} is cut short at {self._size} bytes: {max(1, beyond)} of the {len(self)} records in its index "
                f"are not all there; copy it again"
            )

    def _damaged(self, index: int, reason: str) -> DamagedImageError:
        return DamagedImageError(f"{self.name(index)} is damaged: {reason}; {_ADVICE}")
