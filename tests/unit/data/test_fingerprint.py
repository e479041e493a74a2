"""A copy of a data set has the same fingerprint, and changes are described."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data import fingerprint
from vggdist.data.dataset import load
from vggdist.data.folder import FileStore
from vggdist.data.serialization import from_arrays, to_arrays


def _save(path: Path, number: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            for number in range(count):
                _save(tmp_path / "root" / part / name / f"{number}.png", 10 * label + number, 8 + number % 2)
    return tmp_path / "root"


def _of(root: Path, **options: Any) -> dict[str, Any]:
    """The fingerprint after it was stored in a checkpoint."""
    return json.loads(json.dumps(load(DataConfig(name="folder", root=str(root), **options), seed=0).identity))


def test_a_copy_elsewhere_written_at_another_time_is_the_same(root: Path, tmp_path: Path) -> None:
    before = _of(root)
    shutil.copytree(root, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "elsewhere" / "copy" / "train" / "ant" / "0.png", (1, 1))
    now = _of(tmp_path / "elsewhere" / "copy")
    assert now == before
    assert [fingerprint.difference(before[part], now[part]) for part in ("train", "test")] == [None, None]


def test_how_images_are_held_makes_no_difference(root: Path) -> None:
    for part in ("train", "test"):
        for path in (root / part).rglob("1.png"):
            path.unlink()
    small = _of(root)
    assert small == _of(root, damaged="skip", channels=1, threads=1)


def test_ranks_that_share_a_data_set_share_its_identity(root: Path) -> None:
    data = load(DataConfig(name="folder", root=str(root)), seed=0)
    assert from_arrays(to_arrays(data)).identity == data.identity


def _rename_class(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / "bumblebee")


def _remove_class(root: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(root / part / "ant")


@pytest.mark.parametrize(
    ("change", "part", "words"),
    [
        (_rename_class, "train", "has the class bumblebee instead of bee"),
        (_remove_class, "test", "had 3 classes before and has 2 now: removed ant"),
        (
            lambda root: _save(root / "train/dog/0.png", 7),
            "train",
            "3 classes before and has 4 now: added dog",
        ),
        (lambda root: (root / "test/cat/1.png").unlink(), "test", "had 6 images before and has 5 now (cat 2 before, 1 now)"),
        (
            lambda root: _save(root / "train/ant/2.png", 7, 30),
            "train",
            "has the same number of images per class, but other images: file names, file sizes or pixels differ",
        ),
        (
            lambda root: (root / "test/cat/1.png").rename(root / "test/cat/2.png"),
            "test",
            "has the same number of images per class",
        ),
        (
            lambda root: (root / "test/cat/1.png").rename(root / "test/ant/2.png"),
            "test",
            "(ant 2 before, 3 now, cat 2 before, 1 now)",
        ),
    ],
)
def test_what_changed_is_said(root: Path, change: Any, part: str, words: str) -> None:
    before = _of(root)
    change(root)
    now = _of(root)
    assert words in str(fingerprint.difference(before[part], now[part]))
    other = {"train": "test", "test": "train"}[part]
    if change not in (_rename_class, _remove_class) and "dog" not in words:
        assert fingerprint.difference(before[other], now[other]) is None


def test_classes_in_another_order_differ() -> None:
    before = fingerprint.part_identity(np.array([0, 1], np.int32), ("a", "b"), "")
    now = fingerprint.part_identity(np.array([0, 1], np.int32), ("b", "a"), "")
    assert fingerprint.difference(before, now) == "has the same classes as before in another order"


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_one_pixel_makes_another_data_set(name: str) -> None:
    data = load(DataConfig(name=name), seed=0)  # type: ignore[arg-type]
    images = np.array(data.train.images)  # type: ignore[attr-defined]
    assert fingerprint.of_pixels(images) == data.identity["train"]["contents"]
    images[3, 2, 1, 0] ^= 1
    assert fingerprint.of_pixels(images) != data.identity["train"]["contents"]


def test_more_files_than_are_asked_for_at_once_have_the_identity_of_their_order(tmp_path: Path) -> None:
    for number in range(700):
        (tmp_path / f"{number:03d}").write_bytes(bytes(number % 9))
    paths = sorted(tmp_path.iterdir())
    found = fingerprint.of_store(FileStore(paths))
    assert found == fingerprint.of_store(FileStore(paths)) != fingerprint.of_store(FileStore([paths[1], paths[0], *paths[2:]]))
    paths[650].unlink()
    with pytest.raises(RequestError, match="650 cannot be read: No such file"):
        fingerprint.of_store(FileStore(paths))
