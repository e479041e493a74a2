"""What of a JPEG file is decoded: its EXIF data, the whole picture at a scale, or only the top of it (ITU-T T.81)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

_SCAN, _APP1, _SEQUENTIAL = b"\xda", b"\xe1", (b"\xc0", b"\xc1")
_EXIF = b"Exif\0\0"
# How many rows further down smooth upsampling of colour looks, in rows of the scaled picture.
_CONTEXT = 1
_MORE_FOLLOWS = "extraneous bytes before marker"  # libjpeg-turbo's warning of data after the last row


class Header(NamedTuple):
    """What stands before the first scan of a JPEG file, beside what libjpeg-turbo tells of it."""

    exif: bytes | None
    """EXIF data; None where there are none."""
    height_at: int | None
    """Where a sequential file of one scan tells its height; None for another file."""
    block: int
    """How many rows are coded together: 8, or 16 where colour has half the rows."""


def read_header(content: bytes) -> Header:
    """Look through the segments before the first scan; whatever is no JPEG file has none."""
    found, height_at, components, block = None, None, b"", 8
    for marker, start, end in _segments(content):
        if marker == _APP1 and found is None and content.startswith(_EXIF, start):
            found = content[start:end]
        elif marker in _SEQUENTIAL:
            height_at, components = start + 1, content[start + 5 : start + 6]
            block = 8 * max((sampling & 15 for sampling in content[start + 7 : end : 3]), default=1)
        elif marker == _SCAN:
            return Header(found, height_at if content[start : start + 1] == components else None, block)
    return Header(found, None, block)


def decode_jpeg(content: bytes, height: int, width: int, divisor: int, buffer: np.ndarray | None = None) -> np.ndarray:
    """Decode a JPEG file of ``height`` x ``width`` pixels at 1, 1/2, 1/4 or 1/8 of its size.

    Returns:
        ``(H, W, 3) uint8`` RGB, in ``buffer`` where one is given.

    Raises:
        ValueError: libjpeg-turbo fails, or warns of anything.
    """
    least = {} if divisor == 1 else {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
    return np.asarray(simplejpeg.decode_jpeg(content, "RGB", buffer=buffer, **least))


def decode_top(
    content: bytes, header: Header, height: int, width: int, row: int, divisor: int, buffer: np.ndarray
) -> np.ndarray:
    """Decode what is above a row of the whole picture, and spare what a crop does not show of the rest.

    A sequential file of one scan holds its rows from top to bottom. libjpeg-turbo stops after as many as the header promises,
    so it is shown a header that promises fewer. Other files are decoded whole.

    Returns:
        As :func:`decode_jpeg`, in ``buffer``; what lies below the row may be anything.

    Raises:
        ValueError: as :func:`decode_jpeg`. Damage below the row may pass; the early end of a file does not, unless it has
            restart markers.
    """
    promised, place = -(-(row + _CONTEXT * divisor) // header.block) * header.block, header.height_at
    if place is None or promised >= height:
        return decode_jpeg(content, height, width, divisor, buffer)
    view = memoryview(content)
    try:
        shorter = b"".join((view[:place], promised.to_bytes(2, "big"), view[place + 2 :]))
        decode_jpeg(shorter, promised, width, divisor, buffer)
    except ValueError as warning:
        if _MORE_FOLLOWS not in str(warning):
            raise
    shape = (-(-height // divisor), -(-width // divisor), 3)
    return buffer[: shape[0] * shape[1] * 3].reshape(shape)


def _segments(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The marker of each segment up to the first scan's header, and where its data begin and end."""
    # Segment by segment: to search all that may come before the scan takes ten times as long.
    start, marker = 2, b""
    while marker != _SCAN and content[start : start + 1] == b"\xff" and start + 4 <= len(content):
        marker, end = content[start + 1 : start + 2], start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield marker, start + 4, end
        start = end
