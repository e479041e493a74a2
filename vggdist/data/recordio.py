"""Format and writer of MXNet's RecordIO files, ``.rec`` and ``.idx``.

The format is that of dmlc-core's ``recordio.h``: each part of a record is a magic number, a word with the kind of the part (3
bits) and its length (29 bits), the data, and zero padding to a multiple of four bytes. If the data contain the magic number at
a multiple of four, they are split there into several parts. The data of an image start with MXNet's ``IRHeader`` (flag, label,
two ids). A line of the index is a key, a tab and the position of the record.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_LENGTH = 2**29 - 1
IMAGE_HEADER = struct.Struct("<IfQQ")
_INDEX_LINE = re.compile(rb"([0-9]{1,19})\t([0-9]{1,19})\r?")
MAX_LABELS = 2**24
"""Labels are float32, which represents all integers below this one exactly."""


class ImageRecord(NamedTuple):
    """The record of an image."""

    key: int
    label: float
    content: bytes
    """The encoded image."""


class RecordWriter:
    """Appends records to a ``.rec`` file and their lines to an index."""

    def __init__(self, record_file: BinaryIO, index_file: BinaryIO) -> None:
        """Append to both files."""
        self._records, self._index = record_file, index_file
        self._position = record_file.seek(0, os.SEEK_END)
        index_file.seek(0, os.SEEK_END)

    def write(self, record: ImageRecord) -> None:
        """Append an image, then its line of the index."""
        data = IMAGE_HEADER.pack(0, record.label, record.key, 0) + record.content
        if len(data) > MAX_LENGTH:
            raise RequestError(f"an image of {len(record.content)} bytes is too large for a record")
        framed = frame(data)
        self._records.write(framed)
        self._records.flush()
        self._index.write(b"%d\t%d\n" % (record.key, self._position))
        self._index.flush()
        self._position += len(framed)


def frame(data: bytes) -> bytes:
    """Encode ``data`` as a record."""
    cuts, place = [], data.find(MAGIC_BYTES)
    while place >= 0:
        if place % 4 == 0:
            cuts.append(place)
        place = data.find(MAGIC_BYTES, place + (4 if place % 4 == 0 else 1))
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(data)]
    kinds = [WHOLE] if not cuts else [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST]
    parts = [
        struct.pack("<II", MAGIC, kind << 29 | end - start) + data[start:end] for kind, start, end in zip(kinds, starts, ends)
    ]
    return b"".join(parts) + bytes(-len(data) % 4)


def record_end(head_at: Callable[[int], bytes], position: int, size: int) -> int | None:
    """Find the end of a record, including all its parts.

    Args:
        head_at: returns the eight bytes at a position of the file, fewer at its end.
        position: start of the record.
        size: of the file in bytes.

    Returns:
        The position after the record, which is beyond ``size`` if it is truncated; None if the header of a part is invalid.
    """
    expected: tuple[int, ...] = (WHOLE, FIRST)
    while True:
        head = head_at(position)
        if len(head) < 8:
            return size + 1
        magic, word = struct.unpack("<II", head)
        kind, length = word >> 29, word & MAX_LENGTH
        position += 8 + length + -length % 4
        if magic != MAGIC or kind not in expected:
            return None
        if kind in (WHOLE, LAST) or position > size:
            return position
        expected = (MIDDLE, LAST)


def parse_index(path: Path, content: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys and positions, ``(N,) int64`` each."""
    if not content:
        raise RequestError(f"{path} is empty; remove it to read the records in file order")
    keys, positions = [], []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        match = _INDEX_LINE.fullmatch(line)
        if match is None or int(match[2]) % 4 or max(int(match[1]), int(match[2])) >= 2**63:
            raise RequestError(f"line {number} of {path} is {line[:40]!r}; expected a key, a tab and a multiple of four")
        keys.append(int(match[1]))
        positions.append(int(match[2]))
    if len(set(positions)) < len(positions):
        raise RequestError(f"{path} lists a position twice; it is not an index of records")
    return np.array(keys, np.int64), np.array(positions, np.int64)
