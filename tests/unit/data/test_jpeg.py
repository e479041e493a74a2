"""The upper rows of a JPEG image are decoded without the rest, and equal those of the full image, for all kinds of files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vggdist.data.jpeg import decode_jpeg, decode_top, read_header

HEIGHT, WIDTH = 300, 210


def noise(channels: int = 3) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (HEIGHT // 5, WIDTH // 5, channels), np.uint8)
    return Image.fromarray(coarse[..., 0] if channels == 1 else coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def segments(content: bytes) -> dict[int, list[bytes]]:
    """The segments before the scan by marker, and the rest of the file under 0."""
    found: dict[int, list[bytes]] = {}
    start = 2
    while content[start + 1] != 0xDA:
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        found.setdefault(content[start + 1], []).append(content[start:end])
        start = end
    return found | {0: [content[start:-2]]}


def one_scan_for_each_colour() -> bytes:
    """A sequential file with three scans, which the standard allows and few programs write."""
    colours = [segments(jpeg(Image.fromarray(plane))) for plane in np.moveaxis(np.asarray(noise().convert("YCbCr")), -1, 0)]
    (grey_frame,) = colours[0][0xC0]
    frame = b"\xff\xc0" + (8 + 3 * 3).to_bytes(2, "big") + grey_frame[4:9] + b"\3"
    frame += b"".join(bytes([component, 0x11, 0]) for component in (1, 2, 3))
    scans = [colour[0][0] for colour in colours]
    scans = [scan[:5] + bytes([component]) + scan[6:] for component, scan in zip((1, 2, 3), scans)]
    tables = b"".join(colours[0][0xDB] + colours[0][0xC4])
    return b"\xff\xd8" + tables + frame + b"".join(scans) + b"\xff\xd9"


def decoded(content: bytes, row: int, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """The full image, and its upper rows in a buffer of other pixels."""
    whole = decode_jpeg(content, HEIGHT, WIDTH, divisor)
    buffer = np.full(HEIGHT * WIDTH * 3, 77, np.uint8)
    return whole, decode_top(content, read_header(content), HEIGHT, WIDTH, row, divisor, buffer)


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0"},
        {"restart_marker_rows": 1},
        {"quality": 100},
    ],
    ids=str,
)
def test_the_top_is_that_of_the_whole_and_the_rest_is_spared(options: dict[str, Any], divisor: int) -> None:
    for row in (1, 15, 16, 17, 31, 32, 33, 100, 200):
        whole, top = decoded(jpeg(noise(), **options), row, divisor)
        rows = -(-row // divisor)
        np.testing.assert_array_equal(top[:rows], whole[:rows])
        assert top.shape == whole.shape and (top[-1] == 77).all()  # not overwritten


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_colour_of_half_the_rows_alone_is_cut_as_well(divisor: int) -> None:
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(noise()), colorsubsampling="440")
    for row in (16, 17, 64):
        whole, top = decoded(content, row, divisor)
        np.testing.assert_array_equal(top[: -(-row // divisor)], whole[: -(-row // divisor)])
        assert (top[-1] == 77).all()


@pytest.mark.parametrize("row", [1, HEIGHT - 20, HEIGHT])
@pytest.mark.parametrize("kind", ["progressive", "three scans"])
def test_other_files_are_decoded_whole(kind: str, row: int) -> None:
    content = jpeg(noise(), progressive=True) if kind == "progressive" else one_scan_for_each_colour()
    whole, top = decoded(content, row, 1)
    np.testing.assert_array_equal(top, whole)
    np.testing.assert_array_equal(whole, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_a_grey_photograph_is_cut_as_well() -> None:
    whole, top = decoded(jpeg(noise(1)), 100, 1)
    np.testing.assert_array_equal(top[:100], whole[:100])
    assert (top[-1] == 77).all()


def test_damage_above_the_row_is_reported_and_so_is_an_early_end() -> None:
    content = jpeg(noise(), restart_marker_rows=1)
    marker = content.index(b"\xff\xd1")
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        decoded(content[:marker] + b"\xff\xd5" + content[marker + 2 :], 100, 1)
    cut = jpeg(noise())[:-400]
    with pytest.raises(ValueError, match="Premature end"):
        decode_top(cut, read_header(cut), HEIGHT, WIDTH, 100, 1, np.empty(HEIGHT * WIDTH * 3, np.uint8))


def test_simplejpeg_reports_a_size_that_is_not_the_files() -> None:
    """The assumption of :func:`decode_top`: only the header determines the number of rows."""
    content = jpeg(noise())
    frame = content.index(b"\xff\xc0")
    shorter = content[: frame + 5] + (64).to_bytes(2, "big") + content[frame + 7 :]
    assert simplejpeg.decode_jpeg_header(shorter)[:2] == (64, WIDTH)
    with pytest.raises(ValueError, match="extraneous bytes before marker"):
        simplejpeg.decode_jpeg(shorter, "RGB")
