"""Published files are read exactly, or refused with a message that helps."""

from __future__ import annotations

import gzip
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vggdist.config.errors import RequestError
from vggdist.data import formats

_ROWS = 4
_NAMES = [f"name{label}" for label in range(10)]


@pytest.fixture(autouse=True)
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of CIFAR with four images in each file."""
    for name, kinds in formats.CIFAR.items():
        small = tuple(
            replace(files, train=dict.fromkeys(files.train, _ROWS), test=dict.fromkeys(files.test, _ROWS)) for files in kinds
        )
        monkeypatch.setitem(formats.CIFAR, name, small)  # type: ignore[arg-type]


def _batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels ``(4,)`` and pixels ``(4, 3072)`` of five training files and the test file."""
    random = np.random.default_rng(0)
    return [(random.integers(0, 10, _ROWS), random.integers(0, 256, (_ROWS, 3072), np.uint8)) for _ in range(6)]


def _write_binary(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [*formats.CIFAR["cifar10"][0].train, "test_batch.bin"]
    for name, (labels, pixels) in zip(names, _batches(), strict=True):
        (folder / name).write_bytes(np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(_NAMES) + "\n\n")


def _write_pickles(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (labels, pixels) in zip([*formats.CIFAR["cifar10"][1].train, "test_batch"], _batches(), strict=True):
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=2))
    meta = {b"label_names": [name.encode() for name in _NAMES]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def _write_idx(folder: Path, packed: bool) -> None:
    folder.mkdir()
    random = np.random.default_rng(1)
    for part, count in (("train", 6), ("t10k", 3)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            path = folder / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)


def _assert_same(first: formats.Labelled, second: formats.Labelled) -> None:
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_binary_and_pickled_cifar_read_equal(tmp_path: Path) -> None:
    _write_binary(tmp_path / "a" / "cifar-10-batches-bin")
    _write_pickles(tmp_path / "b" / "cifar-10-batches-py")
    train, test, names = formats.load_cifar("cifar10", tmp_path / "a")
    pickled_train, pickled_test, pickled_names = formats.load_cifar("cifar10", tmp_path / "b")
    _assert_same(train, pickled_train)
    _assert_same(test, pickled_test)
    assert names == pickled_names == tuple(_NAMES)
    assert train.images.shape == (20, 32, 32, 3) and train.labels.dtype == np.int32
    labels, pixels = _batches()[0]
    assert (train.images[1, 2, 3, 1], train.labels[1]) == (pixels[1, 1024 + 2 * 32 + 3], labels[1])


def test_cifar_reads_from_the_root_and_from_the_archive_as_from_its_folder(tmp_path: Path) -> None:
    _write_binary(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "plain", "cifar-10-batches-bin")
    plain, packed = (formats.load_cifar("cifar10", tmp_path / name) for name in ("plain", "packed"))
    _assert_same(plain[0], packed[0])
    assert plain[2] == packed[2]


def test_cifar100_binary_takes_the_fine_label() -> None:
    content = b"".join(bytes((7, fine)) + bytes(3072) for fine in (0, 42, 99, 3))
    labels = formats.read_cifar_binary(content, "train.bin", _ROWS, 100, label_bytes=2).labels
    assert labels.tolist() == [0, 42, 99, 3]


def test_truncated_binary_names_the_file_and_both_sizes(tmp_path: Path) -> None:
    _write_binary(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RequestError, match=r"data_batch_3\.bin has 12287 bytes; expected 12292"):
        formats.load_cifar("cifar10", tmp_path)


def test_truncated_pickle_names_the_file_and_both_sizes() -> None:
    content = pickle.dumps({"data": np.zeros((_ROWS, 3072), np.uint8), "labels": [0] * _ROWS})[:9000]
    with pytest.raises(RequestError, match=r"batch_1 has 9000 bytes .* expected at least 12288 bytes"):
        formats.read_cifar_pickle(content, "batch_1", _ROWS, 10, "labels")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [0] * 4}, "expected 'data' among them"),
        ({"data": np.zeros((3, 3072), np.uint8), "labels": [0] * 4}, r"is uint8 \(3, 3072\); expected uint8 \(4, 3072\)"),
        ({"data": "pixels", "labels": [0] * 4}, "expected uint8"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 3}, r"labels is int64 \(3,\)"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, -1]}, "label -1 of sample 3; expected 0 to 9"),
        ([1, 2], "holds a list; expected a dictionary"),
    ],
)
def test_pickle_of_another_content_is_refused(batch: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        formats.read_cifar_pickle(pickle.dumps(batch, protocol=2), "batch", 4, 10, "labels")


class _Hostile:
    """Touches a file when it is unpickled the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"data": _Hostile(trace)})
    with pytest.raises(RequestError, match=r"data_batch_1 is no CIFAR file: it names .* was not run"):
        formats.read_cifar_pickle(content, "data_batch_1", _ROWS, 10, "labels")
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # so the pickle would have run


def test_label_out_of_range_is_refused() -> None:
    content = b"".join(bytes((label,)) + bytes(3072) for label in (0, 9, 10, 3))
    with pytest.raises(RequestError, match="data_batch_1.bin: label 10 of sample 2; expected 0 to 9"):
        formats.read_cifar_binary(content, "data_batch_1.bin", _ROWS, 10, label_bytes=1)


def test_gzipped_and_plain_idx_read_equal(tmp_path: Path) -> None:
    _write_idx(tmp_path / "mnist", packed=True)
    _write_idx(tmp_path / "plain", packed=False)
    packed, plain = formats.load_idx("mnist", tmp_path, "mnist"), formats.load_idx("mnist", tmp_path / "plain", "mnist")
    for first, second in zip(packed, plain, strict=True):
        _assert_same(first, second)
    assert packed[0].images.shape == (6, 28, 28, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "has 2367 bytes; expected 2368 for 3 items"),
        (lambda content: content + b"x", "has 2369 bytes; expected 2368"),
        (lambda content: b"\0\0\x0d\x03" + content[4:], "starts with 00000d03; expected 00000803"),
        (lambda content: content[:7], "has 7 bytes"),
        (lambda content: content[:11] + b"\x1d" + content[12:], r"items of \(29, 28\); expected \(28, 28\)"),
    ],
)
def test_idx_of_another_content_is_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    _write_idx(tmp_path / "mnist", packed=False)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RequestError, match=f"t10k-images-idx3-ubyte .*{message}"):
        formats.load_idx("mnist", tmp_path, "mnist")


def test_truncated_gzip_names_the_file(tmp_path: Path) -> None:
    _write_idx(tmp_path / "mnist", packed=True)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RequestError, match="train-labels-idx1-ubyte.gz .* cannot be read"):
        formats.load_idx("mnist", tmp_path, "mnist")


def test_images_without_as_many_labels_are_refused(tmp_path: Path) -> None:
    _write_idx(tmp_path / "mnist", packed=False)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02ab")
    with pytest.raises(RequestError, match="holds 3 images but .* 2 labels"):
        formats.load_idx("mnist", tmp_path, "mnist")


def test_one_lacking_file_is_named(tmp_path: Path) -> None:
    _write_binary(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with pytest.raises(RequestError, match=r"cifar-10-batches-bin/data_batch_4\.bin is missing"):
        formats.load_cifar("cifar10", tmp_path)
