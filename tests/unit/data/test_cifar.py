"""CIFAR's files are read exactly, or rejected with a clear message."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vggdist.config.errors import RequestError
from vggdist.data import cifar, published
from vggdist.data.published import Labelled

_ROWS = 4
_NAMES = [f"name{label}" for label in range(10)]


@pytest.fixture(autouse=True)
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of CIFAR with four images in each file."""
    for name, kinds in cifar.CIFAR.items():
        small = tuple(
            replace(files, train=dict.fromkeys(files.train, _ROWS), test=dict.fromkeys(files.test, _ROWS)) for files in kinds
        )
        monkeypatch.setitem(cifar.CIFAR, name, small)  # type: ignore[arg-type]


def _batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels ``(4,)`` and pixels ``(4, 3072)`` of five training files and the test file."""
    random = np.random.default_rng(0)
    return [(random.integers(0, 10, _ROWS), random.integers(0, 256, (_ROWS, 3072), np.uint8)) for _ in range(6)]


def _write_binary(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [*cifar.CIFAR["cifar10"][0].train, "test_batch.bin"]
    for name, (labels, pixels) in zip(names, _batches(), strict=True):
        (folder / name).write_bytes(np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(_NAMES) + "\n\n")


def _write_pickles(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (labels, pixels) in zip([*cifar.CIFAR["cifar10"][1].train, "test_batch"], _batches(), strict=True):
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=2))
    meta = {b"label_names": [name.encode() for name in _NAMES]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def _assert_same(first: Labelled, second: Labelled) -> None:
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


def load(root: Path) -> tuple[list[Labelled], tuple[str, ...], Path]:
    parts, names, place = cifar.load_cifar("cifar10", root)
    return [parts["train"], parts["test"]], names, place


def test_a_part_needs_no_files_of_the_other(tmp_path: Path) -> None:
    _write_binary(tmp_path)
    (test,) = cifar.load_cifar("cifar10", tmp_path, ["test"])[0].values()
    for file in tmp_path.glob("data_batch_*"):
        file.unlink()
    _assert_same(cifar.load_cifar("cifar10", tmp_path, ["test"])[0]["test"], test)
    with pytest.raises(RequestError, match="data_batch_1.bin is missing"):
        cifar.load_cifar("cifar10", tmp_path)


def test_binary_and_pickled_cifar_read_equal(tmp_path: Path) -> None:
    _write_binary(tmp_path / "a" / "cifar-10-batches-bin")
    _write_pickles(tmp_path / "b" / "cifar-10-batches-py")
    (train, test), names, place = load(tmp_path / "a")
    (pickled_train, pickled_test), pickled_names, _ = load(tmp_path / "b")
    assert place == tmp_path / "a" / "cifar-10-batches-bin"
    _assert_same(train, pickled_train)
    _assert_same(test, pickled_test)
    assert names == pickled_names == tuple(_NAMES)
    assert train.images.shape == (20, 32, 32, 3) and train.labels.dtype == np.int32
    labels, pixels = _batches()[0]
    assert (train.images[1, 2, 3, 1], train.labels[1]) == (pixels[1, 1024 + 2 * 32 + 3], labels[1])


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "cifar-10-binary.tar"])
@pytest.mark.parametrize("mode", ["w:gz", "w"])  # independent of the name
def test_cifar_reads_from_the_root_and_from_the_archive_as_from_its_folder(tmp_path: Path, name: str, mode: str) -> None:
    _write_binary(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / name, mode) as archive:  # type: ignore[call-overload]
        archive.add(tmp_path / "plain", "cifar-10-batches-bin")
    plain, packed = (load(tmp_path / folder) for folder in ("plain", "packed"))
    _assert_same(plain[0][0], packed[0][0])
    assert plain[1] == packed[1] and packed[2] == tmp_path / "packed" / name


def _archive(path: Path, **changes: object) -> Path:
    """CIFAR-10 in an archive, with other contents for some of its members."""
    _write_binary(path.parent / "plain")
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted((path.parent / "plain").iterdir()):
            content = changes.get(file.stem, file.read_bytes())
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file.name}")
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content  # type: ignore[misc]
                archive.addfile(member)
    return path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_member_of_an_archive_that_is_no_plain_file_is_not_there(tmp_path: Path, kind: bytes) -> None:
    _archive(tmp_path / "cifar-10-binary.tar.gz", test_batch=(kind, "/etc/passwd"))
    with pytest.raises(RequestError, match="does not contain cifar-10-batches-bin/test_batch.bin|is not a complete archive"):
        cifar.load_cifar("cifar10", tmp_path)


def test_what_unpacks_to_more_than_is_right_is_refused_before_it_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _archive(tmp_path / "cifar-10-binary.tar.gz", data_batch_2=bytes(10**7))
    with pytest.raises(
        RequestError,
        match="binary.tar.gz is not a complete archive: it decompresses to more than the expected maximum of 12292 bytes",
    ):
        cifar.load_cifar("cifar10", tmp_path)
    monkeypatch.setattr(published, "_ARCHIVE_LIMIT", 80_000)
    with pytest.raises(
        RequestError, match="binary.tar.gz is not a complete archive: it decompresses to more than 80000 bytes"
    ):
        cifar.load_cifar("cifar10", tmp_path)
    path.unlink()
    _write_binary(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(
        RequestError, match="data_batch_2.bin cannot be read: it decompresses to more than the expected maximum of 12292 bytes"
    ):
        cifar.load_cifar("cifar10", tmp_path)


@pytest.mark.timeout(60)
def test_an_archive_that_is_cut_short_anywhere_is_refused_and_ends(tmp_path: Path) -> None:
    path = _archive(tmp_path / "cifar-10-binary.tar.gz")
    packed = path.read_bytes()
    plain = gzip.decompress(packed)
    for cut in range(0, len(plain) - 11_000, 997):
        for content in (packed[: len(packed) * cut // len(plain)], plain[:cut]):
            path.write_bytes(content)
            with pytest.raises(RequestError, match="tar.gz (is not a complete archive|does not contain)"):
                cifar.load_cifar("cifar10", tmp_path)


@pytest.mark.timeout(20)
def test_a_member_that_claims_to_be_endless_is_not_skipped_for_ever(tmp_path: Path) -> None:
    member = tarfile.TarInfo("filler")
    member.size = 2**60
    content = member.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(RequestError, match="is not a complete archive: it is truncated"):
        cifar.load_cifar("cifar10", tmp_path)


@pytest.mark.timeout(20)
def test_a_fifo_in_place_of_a_file_is_named_and_blocks_nothing(tmp_path: Path) -> None:
    _write_binary(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    os.mkfifo(tmp_path / "data_batch_4.bin")
    with pytest.raises(RequestError, match="data_batch_4.bin cannot be read: it is a FIFO"):
        cifar.load_cifar("cifar10", tmp_path)


@pytest.mark.parametrize("names", [["a"] * 10, [b"a", 1] * 5, "0123456789", [f"n{n}" for n in range(9)]])
def test_class_names_that_are_not_ten_names_are_refused(tmp_path: Path, names: object) -> None:
    _write_pickles(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    with pytest.raises(
        RequestError, match="batches.meta(: label_names is not a list of names| has [19] class names; expected 10)"
    ):
        cifar.load_cifar("cifar10", tmp_path)


def test_the_pickle_that_python_2_wrote_is_read() -> None:
    """The operations of the published data_batch_1 in order, with four images."""
    labels, pixels = _batches()[0]
    content = b"".join(
        (
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(",
            b"".join(b"K" + bytes([label]) for label in labels),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xff",
            b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", pixels.nbytes) + pixels.tobytes(),
            b"tbU\tfilenamesq\x0c]q\x0d(U\x05a.pngq\x0eU\x05b.pngq\x0feu.",
        )
    )
    assert pickle.loads(content, encoding="latin1")["data"].tolist() == pixels.tolist()
    read = cifar.read_cifar_pickle(content, "data_batch_1", _ROWS, 10, "labels")
    assert read.labels.tolist() == labels.tolist() and read.images[1, 2, 3, 1] == pixels[1, 1024 + 2 * 32 + 3]


def test_cifar100_binary_takes_the_fine_label() -> None:
    content = b"".join(bytes((7, fine)) + bytes(3072) for fine in (0, 42, 99, 3))
    labels = cifar.read_cifar_binary(content, "train.bin", _ROWS, 100, label_bytes=2).labels
    assert labels.tolist() == [0, 42, 99, 3]


def test_truncated_binary_names_the_file_and_both_sizes(tmp_path: Path) -> None:
    _write_binary(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RequestError, match=r"data_batch_3\.bin has 12287 bytes; expected 12292"):
        cifar.load_cifar("cifar10", tmp_path)


def test_truncated_pickle_names_the_file_and_both_sizes() -> None:
    content = pickle.dumps({"data": np.zeros((_ROWS, 3072), np.uint8), "labels": [0] * _ROWS}, protocol=2)[:9000]
    with pytest.raises(RequestError, match=r"batch_1 has 9000 bytes .* expected at least 12288 bytes"):
        cifar.read_cifar_pickle(content, "batch_1", _ROWS, 10, "labels")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [0] * 4}, "expected 'data' among them"),
        ({"data": np.zeros((3, 3072), np.uint8), "labels": [0] * 4}, r"is uint8 \(3, 3072\); expected uint8 \(4, 3072\)"),
        ({"data": "pixels", "labels": [0] * 4}, "data is a str; expected uint8"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 3}, r"labels is int64 \(3,\)"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [[0], [1], [2], [3]]}, "labels is a list"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 2**40]}, "labels is a list"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, True]}, "labels is a list"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": "0123"}, "labels is a str"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, -1]}, "label -1 of sample 3; expected 0 to 9"),
        ([1, 2], "contains a list; expected a dictionary"),
    ],
)
def test_pickle_of_another_content_is_refused(batch: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        cifar.read_cifar_pickle(pickle.dumps(batch, protocol=2), "batch", 4, 10, "labels")


class _Hostile:
    """Touches a file when Python's unpickler reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"data": _Hostile(trace)}, protocol=2)
    with pytest.raises(RequestError, match=r"data_batch_1 is not a CIFAR file: it contains .* was not executed"):
        cifar.read_cifar_pickle(content, "data_batch_1", _ROWS, 10, "labels")
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # the pickle is really executable


def test_label_out_of_range_is_refused() -> None:
    content = b"".join(bytes((label,)) + bytes(3072) for label in (0, 9, 10, 3))
    with pytest.raises(RequestError, match="data_batch_1.bin: label 10 of sample 2; expected 0 to 9"):
        cifar.read_cifar_binary(content, "data_batch_1.bin", _ROWS, 10, label_bytes=1)


def test_one_lacking_file_is_named(tmp_path: Path) -> None:
    _write_binary(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with pytest.raises(RequestError, match=r"cifar-10-batches-bin/data_batch_4\.bin is missing"):
        cifar.load_cifar("cifar10", tmp_path)
