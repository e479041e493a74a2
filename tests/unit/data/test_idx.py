"""Idx files are read exactly, under all common names, or rejected with a clear message."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from vggdist.config.errors import RequestError
from vggdist.data import idx


def _write(folder: Path, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for part, count in (("train", 6), ("t10k", 3)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            path = folder / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)


def test_gzipped_and_plain_idx_read_equal(tmp_path: Path) -> None:
    _write(tmp_path / "mnist", packed=True)
    _write(tmp_path / "plain", packed=False)
    packed, plain = idx.load_idx("mnist", tmp_path), idx.load_idx("mnist", tmp_path / "plain")
    for first, second in zip(packed[0].values(), plain[0].values(), strict=True):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)
    assert (packed[1], plain[1]) == (tmp_path / "mnist", tmp_path / "plain")
    assert packed[0]["train"].images.shape == (6, 28, 28, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "has 2367 bytes; expected 2368 for 3 items"),
        (lambda content: content + b"x", "has 2369 bytes; expected 2368"),
        (lambda content: b"\0\0\x0d\x03" + content[4:], "starts with 00000d03; expected 00000803"),
        (lambda content: content[:7], "has 7 bytes"),
        (lambda content: content[:4] + bytes(4) + content[8:16], "expected 16 for 0 items"),
        (lambda content: content[:4] + b"\xff" * 4 + content[8:], "expected 3367254359296 for 4294967295 items"),
        (lambda content: content[:11] + b"\x1d" + content[12:], r"items of shape \(29, 28\); expected \(28, 28\)"),
    ],
)
def test_idx_of_another_content_is_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    _write(tmp_path / "mnist", packed=False)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RequestError, match=f"t10k-images-idx3-ubyte .*{message}"):
        idx.load_idx("mnist", tmp_path)


def test_truncated_gzip_names_the_file(tmp_path: Path) -> None:
    _write(tmp_path / "mnist", packed=True)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RequestError, match="train-labels-idx1-ubyte.gz cannot be read: Compressed file ended"):
        idx.load_idx("mnist", tmp_path)


def test_images_without_as_many_labels_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "mnist", packed=False)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02ab")
    with pytest.raises(RequestError, match="has 3 images but .* has 2 labels"):
        idx.load_idx("mnist", tmp_path)


def _rename(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    for path in list(folder.iterdir()):
        aside, new = path.rename(path.with_name(path.name + ".old")), folder / change(path.name)
        new.parent.mkdir(exist_ok=True)
        aside.rename(new)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("-idx", ".idx"),  # as some archivers write it
        lambda name: name.upper(),
        lambda name: name.removesuffix(".gz"),  # but gzipped
        lambda name: f"{name}/{name}",  # extracted into a folder of this name
        lambda name: f"{name}/{name.replace('-idx', '.idx')}",
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_the_names_that_unpackers_give_are_known(tmp_path: Path, change, packed: bool) -> None:  # type: ignore[no-untyped-def]
    _write(tmp_path / "mnist", packed)
    _rename(tmp_path / "mnist", change)
    assert [len(part.labels) for part in idx.load_idx("mnist", tmp_path)[0].values()] == [6, 3]


def test_a_file_that_is_named_gz_and_is_not_gzipped_is_read(tmp_path: Path) -> None:
    _write(tmp_path / "mnist", packed=False)
    _rename(tmp_path / "mnist", lambda name: f"{name}.gz")
    assert len(idx.load_idx("mnist", tmp_path)[0]["train"].labels) == 6


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST/raw"), ("mnist", "raw"), ("mnist", "."), ("fashion_mnist", "FashionMNIST/raw"), ("mnist", "Mnist")],
)
def test_the_folders_of_other_libraries_are_known(tmp_path: Path, name: str, folder: str) -> None:
    _write(tmp_path / "root" / folder, packed=False) if folder != "." else _write(tmp_path / "root", packed=False)
    parts, place = idx.load_idx(name, tmp_path / "root")
    assert len(parts["train"].labels) == 6 and place == tmp_path / "root" / folder


def test_of_two_files_for_one_the_one_with_the_published_name_is_read(tmp_path: Path) -> None:
    _write(tmp_path, packed=False)
    for name in ("train-images.idx3-ubyte", "TRAIN-IMAGES-IDX3-UBYTE.gz"):
        (tmp_path / name).write_bytes(b"other")
    assert len(idx.load_idx("mnist", tmp_path)[0]["train"].labels) == 6


def test_a_complete_folder_is_preferred_and_what_lacks_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "mnist", packed=False)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RequestError, match=r"mnist/t10k-labels-idx1-ubyte is missing"):
        idx.load_idx("mnist", tmp_path)
    _write(tmp_path / "MNIST" / "raw", packed=False)
    assert idx.load_idx("mnist", tmp_path)[1] == tmp_path / "MNIST" / "raw"


def test_a_gzip_bomb_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "_LIMIT", 10**5)
    _write(tmp_path / "mnist", packed=True)
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(
        RequestError,
        match="train-labels-idx1-ubyte.gz cannot be read: it decompresses to more than the expected maximum of 100000 bytes",
    ):
        idx.load_idx("mnist", tmp_path)


@pytest.mark.timeout(20)
def test_a_fifo_in_place_of_a_file_is_named_and_blocks_nothing(tmp_path: Path) -> None:
    _write(tmp_path / "mnist", packed=False)
    (tmp_path / "mnist" / "train-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / "mnist" / "train-images-idx3-ubyte")
    with pytest.raises(RequestError, match="train-images-idx3-ubyte cannot be read: it is a FIFO"):
        idx.load_idx("mnist", tmp_path)


def test_a_part_needs_no_files_of_the_other(tmp_path: Path) -> None:
    _write(tmp_path, packed=False)
    for file in tmp_path.glob("train-*"):
        file.unlink()
    assert len(idx.load_idx("mnist", tmp_path, ["test"])[0]["test"].labels) == 3
    with pytest.raises(RequestError, match="train-images-idx3-ubyte is missing"):
        idx.load_idx("mnist", tmp_path)
