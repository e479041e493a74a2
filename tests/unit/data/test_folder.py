"""Folders of images become the pixels that a person sees, and what is wrong in them is named."""

from __future__ import annotations

import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data import folder
from vggdist.data.decode import DamagedImageError, convert_channels, decode
from vggdist.data.encoded import EncodedSource
from vggdist.data.sources import ArraySource, DataSet, load

_RED = (255, 0, 0)


def _save(path: Path, colour: tuple[int, ...] | int = _RED, size: tuple[int, int] = (4, 3), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def _damage(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with three training images and one test image each, all of 4x3 pixels."""
    for number, name in enumerate(("cat", "dog")):
        for index in range(3):
            _save(tmp_path / "train" / name / f"{index}.png", (100 * number, index, 0))
        _save(tmp_path / "test" / name / "0.png", (100 * number, 9, 0))
    return tmp_path


def _load(root: Path, **options: object) -> DataSet:
    return load(DataConfig(name="folder", root=str(root), **options), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (255, 0, 0), (255, 0, 0)),
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (7, 8, 9, 0), (255, 255, 255)),  # what lies under full transparency is not part of the picture
        ("I;16", 0x80FF, (128, 128, 128)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_every_kind_of_png_becomes_rgb_or_grey(tmp_path: Path, mode: str, colour: object, expected: object) -> None:
    path = _save(tmp_path / "image.png", colour, mode=mode)  # type: ignore[arg-type]
    pixels, grey = decode(path, 3), decode(path, 1)
    assert pixels.shape == (3, 4, 3) and pixels.dtype == np.uint8 and tuple(pixels[0, 0]) == expected
    assert grey.shape == (3, 4, 1)
    np.testing.assert_array_equal(grey, convert_channels(pixels, 1))


def test_transparent_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert decode(tmp_path / "palette.png", 3)[(0, 1), (0, 1)].tolist() == [[255, 255, 255], [0, 0, 255]]
    path = _save(tmp_path / "cmyk.jpg", (0, 255, 255, 0), mode="CMYK")
    assert np.abs(decode(path, 3)[0, 0].astype(int) - _RED).max() < 12  # JPEG is not exact


def test_exif_orientation_turns_the_image_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image = Image.new("RGB", (16, 8))
    image.paste(_RED, (0, 0, 8, 8))  # the left half, which comes to lie on top
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    pixels = decode(tmp_path / "turned.jpg", 3)
    assert pixels.shape == (16, 8, 3)
    assert pixels[2, :, 0].min() > 200 and pixels[13, :, 0].max() < 50


def test_content_decides_the_format_and_other_content_is_damaged(tmp_path: Path) -> None:
    _save(tmp_path / "image.png").rename(tmp_path / "image.JPEG")
    assert decode(tmp_path / "image.JPEG", 3).shape == (3, 4, 3)
    for name, content in (("empty.jpg", b""), ("text.jpg", b"<html>"), ("gif.png", b"GIF89a" + bytes(50))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedImageError, match=f"{name}.*neither JPEG nor PNG"):
            decode(tmp_path / name, 3)


def test_truncated_jpeg_is_damaged_and_named_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "noise.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DamagedImageError, match=r"noise.jpg \(2000 bytes\) does not decode: .*truncated"):
        decode(path, 3)


def test_file_that_cannot_be_read_is_not_taken_for_damaged(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="gone.jpg cannot be read") as caught:
        decode(tmp_path / "gone.jpg", 3)
    assert not isinstance(caught.value, DamagedImageError)


def test_images_of_one_size_are_held_in_memory_in_sorted_order(root: Path) -> None:
    data = _load(root)
    assert isinstance(data.train, ArraySource) and data.train.image_shape == (3, 4, 3)
    assert data.train.class_names == data.test.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.images[:, 0, 0, :2].tolist() == [[0, 0], [0, 1], [0, 2], [100, 0], [100, 1], [100, 2]]


@pytest.mark.parametrize("damaged", ["stop", "skip"])
def test_images_of_several_sizes_are_decoded_on_demand(root: Path, damaged: str) -> None:
    _save(root / "train" / "dog" / "2.png", size=(9, 9))
    data = _load(root, damaged=damaged)
    assert isinstance(data.train, EncodedSource) and data.train.image_shape is None
    assert data.train.read(5).shape == (9, 9, 3) and data.train.read(0).shape == (3, 4, 3)


def test_images_above_the_memory_limit_are_decoded_on_demand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 8 * 36)  # eight images in both parts
    assert isinstance(_load(root).train, ArraySource)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 8 * 36 - 1)
    data = _load(root, channels=3)
    assert isinstance(data.train, EncodedSource) and len(data.train) == 6


def test_grey_is_read_when_asked_for(root: Path) -> None:
    data = _load(root, channels=1)
    assert data.train.image_shape == (3, 4, 1) and len(data.mean) == 1
    assert data.train.read(3)[0, 0, 0] == round(0.299 * 100)


def test_damaged_image_stops_at_load_where_images_are_held_in_memory(root: Path) -> None:
    path = _damage(root / "train" / "dog" / "1.png")
    with pytest.raises(DamagedImageError, match=str(path)):
        _load(root)


def test_damaged_image_stops_at_reading_where_images_are_decoded_on_demand(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 0)
    path = _damage(root / "train" / "dog" / "1.png")
    data = _load(root)
    with pytest.raises(DamagedImageError, match=str(path)):
        data.train.read(4)


@pytest.mark.parametrize("limit", [0, folder.MEMORY_LIMIT])
def test_skipped_images_are_named_and_left_out_before_the_plan(
    root: Path, limit: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder, "MEMORY_LIMIT", limit)
    paths = [_damage(root / "train" / name) for name in ("cat/0.png", "dog/1.png")]
    data = _load(root, damaged="skip")
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert [data.train.read(index)[0, 0, :2].tolist() for index in range(4)] == [[0, 1], [0, 2], [100, 0], [100, 2]]
    assert all(str(path) in caplog.text for path in paths)
    assert data.left_out == {"train": 2, "test": 0} and "2 of 6 training images are damaged and left out" in caplog.text


def test_class_of_which_nothing_is_left_is_refused(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        _damage(path)
    with pytest.raises(RequestError, match=r"all images of .*train/dog/0\.png are damaged"):
        _load(root, damaged="skip")


def test_suffixes_of_any_case_are_read_and_others_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save(root / "train" / "cat" / "photo.JPG")
    _save(root / "train" / "cat" / "photo.Jpeg")
    for name in ("notes.txt", "image.webp"):
        (root / "train" / "cat" / name).write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(_load(root).train) == 8
    assert "2 entries" in caplog.text and "ignored" in caplog.text


@pytest.mark.parametrize("name", ["val", "validation"])
def test_test_folder_may_be_called_otherwise(root: Path, name: str) -> None:
    (root / "test").rename(root / name)
    assert len(_load(root).test) == 2


def test_label_of_a_test_class_is_its_label_in_training(root: Path) -> None:
    (root / "test" / "cat" / "0.png").unlink()
    (root / "test" / "cat").rmdir()
    assert _load(root).test.labels.tolist() == [1]


def test_folder_without_parts_holds_out_a_share_of_each_class(root: Path) -> None:
    data = _load(root / "train", held_out=0.34)
    assert data.train.labels.tolist() == [0, 0, 1, 1] and data.test.labels.tolist() == [0, 1]


def test_training_folder_without_a_test_folder_holds_out_a_share(root: Path) -> None:
    (root / "test").rename(root / "elsewhere")
    data = _load(root)
    assert (len(data.train), len(data.test)) == (4, 2)


def test_what_a_folder_lacks_is_named(root: Path) -> None:
    with pytest.raises(RequestError, match="absent is not a folder"):
        _load(root / "absent")
    with pytest.raises(RequestError, match="cat holds no class folders"):
        _load(root / "train" / "cat")
    (root / "train" / "emu").mkdir()
    with pytest.raises(RequestError, match=r"train/emu holds no \.jpg, \.jpeg or \.png"):
        _load(root)
    (root / "train" / "emu").rmdir()
    _save(root / "test" / "emu" / "0.png")
    with pytest.raises(RequestError, match=r"1 classes that .*train lacks: emu"):
        _load(root)


@pytest.mark.skipif("VGGDIST_TEST_DATA" not in os.environ, reason="VGGDIST_TEST_DATA names no folder of real images")
def test_real_photographs_decode_to_rgb_and_the_luma_that_pillow_gives(tmp_path: Path) -> None:
    with tarfile.open(Path(os.environ["VGGDIST_TEST_DATA"]) / "imagenet-sample.tar") as archive:
        archive.extractall(tmp_path, members=archive.getmembers()[:60], filter="data")
    for path in tmp_path.rglob("*.JPEG"):
        with Image.open(path) as image:
            grey, size = image.mode == "L", image.size
        pixels = decode(path, 3)
        assert pixels.shape == (size[1], size[0], 3)
        if not grey:
            np.testing.assert_array_equal(decode(path, 1), convert_channels(pixels, 1))
