"""Image folders are read correctly, and faults in them are reported."""

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
from vggdist.data import predecoded
from vggdist.data.dataset import ArraySource, DataSet, load
from vggdist.data.decode import DamagedImageError, convert_channels, decode
from vggdist.data.encoded import EncodedSource

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
        ("RGBA", (7, 8, 9, 0), (255, 255, 255)),  # fully transparent pixels have no visible colour
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
    exif[0x0112] = 6  # rotated by 90 degrees clockwise
    image = Image.new("RGB", (16, 8))
    image.paste(_RED, (0, 0, 8, 8))  # the left half, which is at the top after the rotation
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
    monkeypatch.setattr(predecoded, "MEMORY_LIMIT", 8 * 36)  # eight images in both parts
    assert isinstance(_load(root).train, ArraySource)
    monkeypatch.setattr(predecoded, "MEMORY_LIMIT", 8 * 36 - 1)
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
    monkeypatch.setattr(predecoded, "MEMORY_LIMIT", 0)
    path = _damage(root / "train" / "dog" / "1.png")
    data = _load(root)
    with pytest.raises(DamagedImageError, match=str(path)):
        data.train.read(4)


@pytest.mark.parametrize("limit", [0, predecoded.MEMORY_LIMIT])
def test_skipped_images_are_named_and_left_out_before_the_plan(
    root: Path, limit: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(predecoded, "MEMORY_LIMIT", limit)
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


def test_one_line_reports_of_each_part_what_was_read_and_what_was_ignored(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _save(root / "train" / "cat" / "photo.JPG")
    _save(root / "train" / "cat" / "photo.Jpeg")
    for name in ("notes.txt", "a.webp", "b.WEBP", "._0.png", ".hidden.jpg", "Thumbs.db", ".DS_Store", "plain"):
        (root / "train" / "cat" / name).write_text("")
    for name in ("__MACOSX", ".ipynb_checkpoints", "cat/more"):
        (root / "train" / name).mkdir()
    _save(root / "train" / "loose.png")
    (root / "extra").mkdir()
    with caplog.at_level(logging.INFO):
        assert len(_load(root).train) == 8
    assert (
        f"training set: 8 images in 2 classes, from 3 (dog) to 5 (cat); from {root}/train; "
        "ignored: 6 system files, 2 .webp, 1 .txt, 1 folder, 1 loose image, 1 other file"
    ) in caplog.text
    assert f"test set: 2 images in 2 classes, 1 of each; from {root}/test; other entries, not read: extra\n" in caplog.text


def test_images_that_are_not_decoded_at_the_start_are_said_to_be_checked_by_prepare(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _load(root)
        assert "prepare --check" not in caplog.text
        _save(root / "train" / "dog" / "2.png", size=(9, 9))
        _load(root, damaged="skip")
        assert "prepare --check" not in caplog.text
        _load(root)
    assert f"vggdist prepare --check {root} finds damaged ones in advance" in caplog.text


@pytest.mark.parametrize("name", ["val", "validation"])
def test_test_folder_may_be_called_otherwise(root: Path, name: str) -> None:
    (root / "test").rename(root / name)
    assert len(_load(root).test) == 2


@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("TRAIN", "Val")])
def test_parts_may_be_written_in_any_case(root: Path, train: str, test: str) -> None:
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    data = _load(root)
    assert (len(data.train), len(data.test)) == (6, 2)
    (root / "train").mkdir()
    with pytest.raises(RequestError, match=f"has both {train}/ and train/"):
        _load(root)


def test_label_of_a_test_class_is_its_label_in_training_and_the_others_are_reported(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "test" / "cat" / "0.png").unlink()
    (root / "test" / "cat").rmdir()
    assert _load(root).test.labels.tolist() == [1]
    assert "the test set has no image of 1 class (cat), of 2 classes: they are not evaluated" in caplog.text


@pytest.mark.parametrize("name", ["test", "val", "Validation", "training", "testing"])
def test_a_folder_named_as_a_part_without_train_beside_it_is_not_taken_for_a_class(root: Path, name: str) -> None:
    (root / "train").rename(root / "aside")
    (root / "test").rename(root / name)
    for extra in ("aside", "other"):
        with pytest.raises(RequestError, match=f"has {name}/ but not train/; move the training images to .*/train/<class>/"):
            _load(root)
        (root / extra).mkdir(exist_ok=True)


def test_one_image_in_each_class_leaves_none_to_test_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "train"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        (folder / name).unlink()
    with pytest.raises(RequestError, match="the test set would be empty: each class has only one image"):
        _load(folder)
    _save(folder / "dog" / "1.png")
    assert len(_load(folder).test) == 1
    assert "the test set has no image of 1 class (cat), of 2 classes" in caplog.text


def test_a_single_class_is_refused(root: Path) -> None:
    with pytest.raises(RequestError, match="there is only one class, images; a classifier needs at least two"):
        (root / "single").mkdir()
        (root / "train" / "cat").rename(root / "single" / "images")
        _load(root / "single")


def test_links_to_nothing_stop_the_run_or_are_left_out_and_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "train" / "cat" / "9.png").symlink_to("gone.png")
    (root / "train" / "cat" / "circle.png").symlink_to("circle.png")
    (root / "train" / "cat" / "notes").symlink_to("gone")
    with pytest.raises(RequestError, match=r"2 images in .*train are broken symlinks, such as .*cat/9.png"):
        _load(root)
    data = _load(root, damaged="skip")
    assert data.left_out == {"train": 2, "test": 0} and len(data.train) == 6
    assert "left out: " + str(root / "train" / "cat" / "9.png") in caplog.text


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_part_that_is_a_link_to_nothing_is_named(root: Path, name: str) -> None:
    (root / name).rename(root / "aside")
    (root / name).symlink_to("nothing")
    with pytest.raises(RequestError, match=f"{name} is a broken symlink"):
        _load(root)


def test_links_to_files_and_folders_are_followed(root: Path, tmp_path: Path) -> None:
    _save(tmp_path / "elsewhere" / "emu" / "0.png")
    (root / "train" / "emu").symlink_to(tmp_path / "elsewhere" / "emu")
    (root / "train" / "dog" / "9.png").symlink_to(tmp_path / "elsewhere" / "emu" / "0.png")
    assert _load(root).train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 2]


@pytest.mark.timeout(20)
def test_a_fifo_is_ignored_and_reported_or_refused_and_blocks_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(root / "train" / "cat" / "9.png")
    with caplog.at_level(logging.INFO):
        assert len(_load(root).train) == 6
    assert "ignored: 1 special file" in caplog.text
    with pytest.raises(RequestError, match="9.png cannot be read: it is a FIFO"):
        decode(root / "train" / "cat" / "9.png", 3)


def test_names_that_are_not_utf8_are_read_and_printable_everywhere(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "test"):
        os.rename(root / part / "dog", os.fsencode(root / part) + b"/h\xfcchner\n")
        _save(root / part / "eme\u0301u" / "0.png")  # as macOS writes it
    (root / "test" / "eme\u0301u").rename(root / "test" / "em\u00e9u")
    image = os.fsencode(root / "train" / "cat") + b"/caf\xe9.jpg"
    with open(image, "wb") as file:
        file.write(b"no image")
    with caplog.at_level(logging.INFO):
        data = _load(root, damaged="skip")
    assert data.train.class_names == ("cat", "em\u00e9u", r"h\xfcchner\n") and data.test.labels.tolist() == [0, 1, 2]
    assert r"cat/caf\xe9.jpg (8 bytes) does not decode" in caplog.text
    caplog.text.encode()
    with pytest.raises(DamagedImageError, match=r"caf\\xe9.jpg"):
        _load(root)


def test_two_folders_for_one_class_are_refused(root: Path) -> None:
    os.mkdir(os.fsencode(root / "train") + b"/\xff")
    (root / "train" / r"\xff").mkdir()
    with pytest.raises(RequestError, match=r"train has two folders for the class .xff; rename one"):
        _load(root)


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
    with pytest.raises(RequestError, match="cat has no class folders"):
        _load(root / "train" / "cat")
    (root / "train" / "emu").mkdir()
    with pytest.raises(RequestError, match=r"train/emu has no \.jpg, \.jpeg or \.png"):
        _load(root)
    (root / "train" / "emu").rmdir()
    _save(root / "test" / "emu" / "0.png")
    with pytest.raises(RequestError, match=r"1 classes that .*train does not have: emu"):
        _load(root)


def test_images_one_folder_further_down_are_pointed_at(root: Path) -> None:
    (root.parent / "unpacked" / "set").mkdir(parents=True)
    root.rename(root.parent / "unpacked" / "set" / "animals")
    with pytest.raises(RequestError, match=r"only 1 folder; .*should data.root be .*unpacked/set"):
        _load(root.parent / "unpacked")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "train" / "dog").chmod(0)
    with pytest.raises(RequestError, match="train/dog cannot be read: Permission denied"):
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
