"""Images are decoded upright, at the required scale, and equal Pillow's result."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig
from vggdist.data.augment import EvaluationView, TrainingView
from vggdist.data.crop_boxes import Box, box_draws, random_box
from vggdist.data.decode import DamagedImageError, Encoded, LazyImage, decode
from vggdist.data.encoded import EncodedSource
from vggdist.data.folder import FileStore
from vggdist.data.randomness import Draws
from vggdist.data.resize_crop import decode_crop


def _scene(width: int = 640, height: int = 480) -> Image.Image:
    """Smooth waves and edges, which show errors of scaling."""
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(columns / (20 + 9 * c) + c) * np.cos(rows / (25 + 5 * c)) for c in range(3)]
    pixels = np.stack(waves, axis=-1).astype(np.uint8)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 40)
    return Image.fromarray(pixels)


def _jpeg(image: Image.Image, name: str = "scene.jpg", **options: Any) -> Encoded:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 92, **options})
    return Encoded(file.getvalue(), name)


def _pillows(encoded: Encoded, mode: str = "RGB") -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded.content))).convert(mode))


def _oriented(orientation: int, byte_order: str = ">") -> Encoded:
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x0112] = orientation
    return _jpeg(_scene(), exif=exif)


def _crop(encoded: Encoded, box: Box, size: int) -> np.ndarray:
    out = np.empty((size, size, 3), np.uint8)
    decode_crop(LazyImage(encoded), box, out)
    return out


def _pillows_crop(encoded: Encoded, box: Box, size: int) -> np.ndarray:
    image = Image.fromarray(_pillows(encoded)).crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}])
def test_the_whole_image_is_pillows_bit_for_bit(options: dict[str, Any]) -> None:
    encoded = _jpeg(_scene(), **options)
    np.testing.assert_array_equal(decode(encoded, 3), _pillows(encoded))
    np.testing.assert_array_equal(decode(encoded, 1)[..., 0], _pillows(encoded, "L"))


@pytest.mark.parametrize("side", [1, 3, 7, 8, 9, 17])
def test_tiny_images_are_not_scaled(side: int) -> None:
    encoded = _jpeg(_scene(side, side + 1))
    np.testing.assert_array_equal(decode(encoded, 3), _pillows(encoded))


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright_at_every_scale(orientation: int, byte_order: str) -> None:
    encoded = _oriented(orientation, byte_order)
    whole = _pillows(encoded)
    image = LazyImage(encoded)
    assert (image.height, image.width) == whole.shape[:2]
    np.testing.assert_array_equal(image.pixels(3), whole)
    half = Image.fromarray(whole).resize((whole.shape[1] // 2, whole.shape[0] // 2), Image.Resampling.BOX)
    assert np.abs(image.pixels(3, divisor=2).astype(int) - np.asarray(half)).mean() < 2


@pytest.mark.parametrize("divisor", [2, 4, 8])
def test_a_scaled_image_is_the_mean_of_its_squares(divisor: int) -> None:
    encoded = _jpeg(_scene())
    squares = _pillows(encoded).reshape(480 // divisor, divisor, 640 // divisor, divisor, 3).mean(axis=(1, 3))
    assert np.abs(LazyImage(encoded).pixels(3, divisor) - squares).mean() < 2


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("shrink", [2.1, 2.6, 5.0])
def test_what_is_finer_than_the_pixels_of_a_long_crop_becomes_its_mean_and_the_short_side_stays_sharp(
    shrink: float, across: bool
) -> None:
    """Stripes along the side that is reduced, and an edge along the other side, which must not be blurred."""
    long, short = round(100 * shrink), 150
    pixels = np.zeros((short, long, 3), np.uint8)
    pixels[:75] = 120 + 100 * np.sin(np.arange(long) * 2 * np.pi / 2.9)[:, None]
    picture = Image.fromarray(pixels if across else pixels.swapaxes(0, 1))
    encoded = _jpeg(picture, quality=100, subsampling=0)
    box = Box(0, 0, picture.height, picture.width)
    ours, pillows = (of(encoded, box, 100).astype(int) for of in (_crop, _pillows_crop))
    striped, edge = (part if across else part.swapaxes(0, 1) for part in (ours[2:-2, 2:-2], ours))
    assert np.abs(striped[:40] - 120).max() < 40 and np.abs(striped[:40] - 120).mean() < 15
    assert (edge[:45, 5:-5] > 50).all() and (edge[53:] < 5).all()
    assert np.abs(ours - pillows).mean() < 4


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_photographs_become_rgb(mode: str) -> None:
    encoded = _jpeg(_scene().convert(mode))
    np.testing.assert_array_equal(decode(encoded, 3), _pillows(encoded))
    assert _crop(encoded, Box(0, 0, 480, 640), 100).shape == (100, 100, 3)


def test_a_png_named_jpg_is_decoded() -> None:
    file = io.BytesIO()
    _scene().save(file, "PNG")
    np.testing.assert_array_equal(decode(Encoded(file.getvalue(), "scene.jpg"), 3), np.asarray(_scene()))


def test_a_truncated_photograph_is_damaged_whatever_part_of_it_is_wanted() -> None:
    whole = _jpeg(_scene()).content
    for kept in (0, 1, 2, 20, 300, len(whole) // 2, len(whole) - 40):
        encoded = Encoded(whole[:kept], "part.jpg")
        with pytest.raises(DamagedImageError, match=rf"part.jpg \({kept} bytes\) does not decode"):
            _crop(encoded, Box(0, 0, 300, 300), 100)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_of_too_many_pixels_is_not_called_damaged(kind: str) -> None:
    file = io.BytesIO()
    Image.new("L", (64, 48)).save(file, kind)
    content = file.getvalue()
    if kind == "PNG":
        head = b"IHDR" + struct.pack(">II", 20_000, 10_000) + content[24:29]
        content = content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    else:
        start = content.index(b"\xff\xc0") + 5
        content = content[:start] + struct.pack(">HH", 20_000, 10_000) + content[start + 4 :]
    with pytest.raises(
        DamagedImageError, match=r"large .* has more than the supported 178956970 pixels.*; scale it down"
    ) as caught:
        decode(Encoded(content, "large"), 3)
    assert "replace or remove" not in str(caught.value)


def test_a_picture_too_narrow_to_be_scaled_is_named_and_takes_no_memory(tmp_path: Path) -> None:
    Image.new("RGB", (8000, 1)).save(tmp_path / "line.png")
    source = EncodedSource(FileStore([tmp_path / "line.png"]), np.zeros(1, np.int32), ("a",), 3)
    for view in (EvaluationView(source, 224, 224), TrainingView(source, AugmentConfig(), 224, 0, (0, 0, 0))):
        arguments = (np.zeros(1, np.int64), np.ones(1, np.float32))
        with pytest.raises(RequestError, match="line.png has 8000 x 1 pixels: too narrow to be scaled to a short side"):
            view.batch(*arguments) if isinstance(view, EvaluationView) else view.batch(0, *arguments)
    assert EvaluationView(source, 16, 16).batch(*arguments).images.shape == (1, 16, 16, 3)
    cropped = TrainingView(source, AugmentConfig(random_resized_crop=True), 224, 0, (0, 0, 0))
    assert cropped.batch(0, *arguments).images.shape == (1, 224, 224, 3)


def test_stray_bytes_before_the_end_are_forgiven_as_pillow_forgives_them() -> None:
    whole = _jpeg(_scene()).content
    encoded = Encoded(whole[:-2] + b"\0\0" + whole[-2:], "stray.jpg")
    np.testing.assert_array_equal(decode(encoded, 3), _pillows(encoded))


def test_any_bytes_decode_or_are_damaged_and_nothing_else() -> None:
    whole, random = np.frombuffer(_oriented(6).content, np.uint8), np.random.default_rng(0)
    for _ in range(150):
        damaged = whole.copy()
        damaged[random.integers(0, len(whole), 8)] = random.integers(0, 256, 8)
        try:
            image = decode(Encoded(damaged.tobytes(), "damaged.jpg"), 3)
            _crop(Encoded(damaged.tobytes(), "damaged.jpg"), Box(0, 0, 100, 100), 30)
        except DamagedImageError:
            continue
        assert image.ndim == 3 and image.dtype == np.uint8


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(10, 20, 100, 100), 100),
        (Box(0, 0, 480, 640), 224),
        (Box(31, 57, 301, 333), 224),
        (Box(5, 5, 60, 80), 224),
        (Box(101, 33, 333, 401), 32),
        (Box(0, 0, 480, 640), 24),
    ],
)
def test_a_crop_is_pillows_within_four_levels_in_the_mean(box: Box, size: int) -> None:
    encoded = _jpeg(_scene())
    difference = np.abs(_crop(encoded, box, size).astype(int) - _pillows_crop(encoded, box, size))
    assert difference.mean() < 4


@pytest.mark.skipif("VGGDIST_TEST_DATA" not in os.environ, reason="VGGDIST_TEST_DATA names no folder of real images")
@pytest.mark.parametrize(("size", "mean", "largest"), [(224, 2, 10), (64, 5, 20)])
def test_random_crops_of_real_photographs_are_pillows_within_these_levels(size: int, mean: float, largest: float) -> None:
    differences = []
    with tarfile.open(Path(os.environ["VGGDIST_TEST_DATA"]) / "imagenet-sample.tar") as archive:
        files = [member for member in archive.getmembers() if member.isfile()][:80]
        for member, draws in zip(files, box_draws(Draws(0, 0, np.arange(len(files))), "crop")):
            encoded = Encoded(archive.extractfile(member).read(), member.name)  # type: ignore[union-attr]
            image = LazyImage(encoded)
            box = random_box(image.height, image.width, AugmentConfig(), draws)
            difference = _crop(encoded, box, size).astype(int) - _pillows_crop(encoded, box, size)
            differences.append(np.abs(difference).mean())
    assert np.mean(differences) < mean and np.max(differences) < largest
