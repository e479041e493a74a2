"""JPEG decoding: header and EXIF data, the image at a reduced size, or only its upper rows (ITU-T T.81)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

_SCAN, _APP1, _SEQUENTIAL = b"\xda", b"\xe1", (b"\xc0", b"\xc1")
_EXIF = b"Exif\0\0"
# Rows below the last one that chroma upsampling reads, in rows of the scaled image.
_CONTEXT = 1
_MORE_FOLLOWS = "extraneous bytes before marker"  # libjpeg-turbo's warning of data after the last row


class Header(NamedTuple):
    """Header data of a JPEG file that libjpeg-turbo does not report."""

    exif: bytes | None
    """EXIF data; None if there are none."""
    height_at: int | None
    """Offset of the height field in a sequential file with a single scan; None for other files."""
    block: int
    """Rows of an MCU: 8, or 16 with vertically subsampled chroma."""


def read_header(content: bytes) -> Header:
    """Read the segments before the first scan; a file that is not JPEG has none."""
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


def decode_jpeg(
    content: bytes, height: int, width: int, divisor: int, buffer: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode a JPEG file of ``height`` x ``width`` pixels at 1, 1/2, 1/4 or 1/8 of its size.

    Returns:
        ``(H, W, 3) uint8`` RGB, in ``buffer`` if there is one.

    Raises:
        ValueError: libjpeg-turbo reports an error or a warning.
    """
    least = {} if divisor == 1 else {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
    return np.asarray(simplejpeg.decode_jpeg(content, "RGB", buffer=buffer, **least))


def decode_top(
    content: bytes, header: Header, height: int, width: int, row: int, divisor: int, buffer: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Decode the rows above ``row``, to skip the part of the image that a crop does not need.

    A sequential file with a single scan stores its rows from top to bottom, and libjpeg-turbo stops after the height in the
    header. So it gets a header with a smaller height. Other files are decoded completely.

    Returns:
        As :func:`decode_jpeg`, in ``buffer``; the rows from ``row`` on are undefined.

    Raises:
        ValueError: as :func:`decode_jpeg`. Damage below the row may go undetected; a truncated file is detected unless it has
            restart markers.
    """
    rows, place = -(-(row + _CONTEXT * divisor) // header.block) * header.block, header.height_at
    if place is None or rows >= height:
        return decode_jpeg(content, height, width, divisor, buffer)
    view = memoryview(content)
    try:
        shortened = b"".join((view[:place], rows.to_bytes(2, "big"), view[place + 2 :]))
        decode_jpeg(shortened, rows, width, divisor, buffer)
    except ValueError as warning:
        if _MORE_FOLLOWS not in str(warning):
            raise
    shape = (-(-height // divisor), -(-width // divisor), 3)
    return buffer[: shape[0] * shape[1] * 3].reshape(shape)


def _segments(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Marker, start and end of the data of each segment up to the first scan's header."""
    # Segment by segment: a regular expression over all bytes before the scan takes ten times as long.
    start, marker = 2, b""
    while marker != _SCAN and content[start : start + 1] == b"\xff" and start + 4 <= len(content):
        marker, end = content[start + 1 : start + 2], start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield marker, start + 4, end
        start = end
