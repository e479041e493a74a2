"""Record files are compatible with MXNet, read by random access, and faults in them are reported."""

from __future__ import annotations

import io
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig, DataConfig
from vggdist.data.augment import TrainingView
from vggdist.data.dataset import ArraySource, DataSet, load
from vggdist.data.decode import DamagedImageError
from vggdist.data.encoded import EncodedSource
from vggdist.data.record_reader import RecordReader
from vggdist.data.recordio import ImageRecord, RecordWriter, frame

_MAGIC = struct.pack("<I", 0xCED7230A)


def _image(number: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, kind)
    return file.getvalue()


def _write(path: Path, records: list[ImageRecord]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, path.with_suffix(".idx").open("wb") as index:
        writer = RecordWriter(file, index)
        for record in records:
            writer.write(record)
    return path


def _records(count: int, **options: Any) -> list[ImageRecord]:
    return [ImageRecord(10 * number, number % 3, _image(number, **options)) for number in range(count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, photographs of two sizes."""
    records = [*_records(6), *(ImageRecord(100 + n, n % 3, _image(n, (50, 50))) for n in range(3))]
    _write(tmp_path / "train.rec", records)
    _write(tmp_path / "val.rec", records[:3])
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    return tmp_path


def _load(root: Path, **options: Any) -> DataSet:
    return load(DataConfig(name="records", root=str(root), **options), seed=0)


def _spoil(path: Path, key: int, offset: int, content: bytes) -> None:
    """Overwrite bytes of a record, ``offset`` relative to its start."""
    lines = dict(line.split("\t") for line in path.with_suffix(".idx").read_text().splitlines())
    with path.open("r+b") as file:
        file.seek(int(lines[str(key)]) + offset)
        file.write(content)


# The format

CONTENTS = [
    b"",
    b"x",
    b"1234",
    _MAGIC,
    _MAGIC * 3,
    b"ab" + _MAGIC + b"cd",
    b"abcd" + _MAGIC + b"ef",
    _MAGIC[:2] + _MAGIC + _MAGIC[2:],
    b"x" * 1001 + _MAGIC,
]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_record_of_any_bytes_is_read_back_by_us_and_by_mxnet_and_is_what_mxnet_writes(
    tmp_path: Path, content: bytes
) -> None:
    import mxnet as mx

    ours = _write(tmp_path / "ours.rec", [ImageRecord(7, 2.0, content), ImageRecord(8, 1.0, b"next")])
    theirs = mx.recordio.MXIndexedRecordIO(str(tmp_path / "theirs.idx"), str(tmp_path / "theirs.rec"), "w")
    for key, label, data in ((7, 2.0, content), (8, 1.0, b"next")):
        theirs.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), data))
    theirs.close()
    for suffix in (".rec", ".idx"):
        assert ours.with_suffix(suffix).read_bytes() == (tmp_path / "theirs").with_suffix(suffix).read_bytes()
    reader = RecordReader(ours)
    assert [reader.read(0), reader.read(1)] == [(7, 2.0, content), (8, 1.0, b"next")]
    again = mx.recordio.MXIndexedRecordIO(str(ours.with_suffix(".idx")), str(ours), "r")
    assert [mx.recordio.unpack(again.read_idx(key))[1] for key in (8, 7)] == [b"next", content]


def test_mxnets_image_record_iter_reads_what_we_wrote(root: Path) -> None:
    import mxnet as mx

    iterator = mx.io.ImageRecordIter(
        path_imgrec=str(root / "val.rec"), path_imgidx=str(root / "val.idx"), data_shape=(3, 30, 40), batch_size=3
    )
    batch = next(iter(iterator))
    assert batch.label[0].asnumpy().tolist() == [0, 1, 2]
    expected = np.stack([_load(root).test.read(index) for index in range(3)]).transpose(0, 3, 1, 2)
    assert np.abs(batch.data[0].asnumpy() - expected).max() <= 2


def test_a_label_that_stands_behind_the_header_is_read(tmp_path: Path) -> None:
    import mxnet as mx

    theirs = mx.recordio.MXIndexedRecordIO(str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "w")
    for key in range(4):
        header = mx.recordio.IRHeader(0, np.array([key % 2], np.float32), key, 0)
        theirs.write_idx(key, mx.recordio.pack(header, _image(key)))
    theirs.close()
    reader = RecordReader(tmp_path / "train.rec")
    assert reader.labels()[0].tolist() == [0, 1, 0, 1] and reader.read(2).content == _image(2)


def test_many_threads_read_at_random_what_was_written(tmp_path: Path) -> None:
    records = [ImageRecord(n, n % 5, bytes([n % 256]) * (n % 300)) for n in range(500)]
    reader = RecordReader(_write(tmp_path / "a.rec", records))
    places = np.random.default_rng(0).integers(0, 500, 4000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reader.read, places)) == [records[place] for place in places]


# The data set


def test_records_are_a_source_like_every_other(root: Path) -> None:
    data = _load(root)
    assert isinstance(data.train, EncodedSource) and data.train.image_shape is None
    assert data.train.class_names == data.test.class_names == ("ant", "bee", "cat")
    assert data.train.labels.tolist() == [0, 1, 2] * 3 and data.train.labels.dtype == np.int32
    assert (len(data.train), len(data.test)) == (9, 3)
    assert data.train.read(0).shape == (30, 40, 3) and data.train.read(8).shape == (50, 50, 3)
    assert _load(root, channels=1).train.read(0).shape == (30, 40, 1)


def test_records_and_a_folder_of_the_same_files_show_the_same_batches(root: Path) -> None:
    reader = RecordReader(root / "train.rec")
    for place in range(9):
        record = reader.read(place)
        path = root / "folder" / "train" / "abc"[int(record.label)] / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.content)
    folder = load(DataConfig(name="folder", root=str(root / "folder"), held_out=0.3), seed=0)
    (root / "val.rec").unlink()
    order = np.argsort(reader.labels()[0], kind="stable")
    _write(root / "train.rec", [reader.read(int(place)) for place in order])
    records = _load(root, held_out=0.3)
    config = AugmentConfig(random_resized_crop=True, flip=True, contrast=0.3)
    samples = np.arange(len(folder.train))
    ours, theirs = (
        TrainingView(data.train, config, 16, 5, (0, 0, 0)).batch(3, samples, np.ones(len(samples), np.float32))
        for data in (records, folder)
    )
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_records_of_one_small_size_are_held_in_memory(tmp_path: Path) -> None:
    _write(tmp_path / "train.rec", _records(6, kind="PNG"))
    data = _load(tmp_path)
    assert isinstance(data.train, ArraySource) and data.train.class_names == ("class 0", "class 1", "class 2")
    assert len(data.train) + len(data.test) == 6


@pytest.mark.parametrize(
    ("key", "offset", "content", "reason"),
    [
        (30, 0, b"\0", "does not start with a record header"),
        (30, 8, struct.pack("<If", 3, 0), "3 labels"),
        (30, 12, struct.pack("<f", 0.5), "label 0.5"),
        (30, 12, struct.pack("<f", float("nan")), "label nan"),
        (30, 7, b"\x20", "a part of it is missing|truncated|has \\d+ of \\d+ bytes"),
        (30, 4, b"\xff\xff", r"has \d+ of \d+ bytes"),
        (30, 32, bytes(20), "does not decode"),
    ],
)
def test_a_damaged_record_is_named_by_file_and_key_and_stops_or_is_left_out(
    root: Path, key: int, offset: int, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    _spoil(root / "train.rec", key, offset, content)
    with pytest.raises(DamagedImageError, match=rf"train.rec key {key}\b.*({reason})"):
        source = _load(root).train
        for index in range(len(source)):
            source.read(index)
    data = _load(root, damaged="skip")
    assert data.train.labels.tolist() == [0, 1, 2, 1, 2, 0, 1, 2] and data.left_out == {"train": 1, "test": 0}
    assert f"train.rec key {key}" in caplog.text


@pytest.mark.parametrize("lost", [1, 5, 400, 3000])
@pytest.mark.parametrize("damaged", ["stop", "skip"])
def test_a_truncated_file_is_refused_before_anything_is_read(root: Path, lost: int, damaged: str) -> None:
    content = (root / "train.rec").read_bytes()
    (root / "train.rec").write_bytes(content[: len(content) - lost - 3])
    with pytest.raises(RequestError, match=r"train.rec is truncated at \d+ bytes.*of the 9 records"):
        _load(root, damaged=damaged)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("0\t0\n1\t0\n", "lists a position twice"),
        ("0\t0\n1\t500\n", "position 500 in .*train.idx is inside .*train.rec key 0: the index is of another file"),
        ("0\t4\n1\t8\n2\t12\n", "train.rec has no record at 3 of the 3 positions in .*train.idx"),
        ("0\t0\n1\t9223372036854775808\n", "line 2 of"),
        (f"{2**63}\t0\n", "line 1 of"),
        (f"0\t0\n1\t{'4' * 5000}\n", "line 2 of .* is b'1.t4444444444.*; expected a key"),
        ("0\t0\n-1\t400\n", "line 2"),
        ("0\t0\n1\t9223372036854775804\n", "truncated at .* bytes: 1 of the 2 records"),
        ("0\t0\n1\t3\n", r"line 2 of .*train.idx.*multiple of four"),
        ("0 0\n", "line 1"),
        ("0\t0\n\n", "line 2"),
    ],
)
def test_an_index_that_is_none_is_refused(root: Path, content: str, reason: str) -> None:
    (root / "train.idx").write_text(content)
    with pytest.raises(RequestError, match=reason):
        _load(root)


def test_what_a_folder_of_records_lacks_is_named(root: Path) -> None:
    (root / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(RequestError, match="classes.txt has 2 class names, but a record has the label 2"):
        _load(root)
    (root / "classes.txt").write_text("ant\nant\n\n")
    with pytest.raises(RequestError, match="classes.txt has an empty line or a duplicate name"):
        _load(root)
    (root / "train.rec").rename(root / "cars_train.rec")
    with pytest.raises(RequestError, match=r"train.rec is missing.*vggdist prepare.*\(found cars_train.rec, val.rec"):
        _load(root)


@pytest.mark.parametrize("lines", [range(5), range(3, 9), [0, 1, 2, 4, 5, 6, 7, 8], [8]])
def test_an_index_that_lists_a_part_of_the_records_is_refused(root: Path, lines: Any) -> None:
    listed = (root / "train.idx").read_text().splitlines(keepends=True)
    (root / "train.idx").write_text("".join(listed[line] for line in lines))
    with pytest.raises(RequestError, match=rf"train.idx lists {len(lines)} of at least 9 records of .*: it is truncated"):
        _load(root, damaged="skip")


def test_an_index_in_another_order_with_any_keys_is_that_of_all_records(root: Path) -> None:
    listed = (root / "train.idx").read_text().splitlines()
    (root / "train.idx").write_text("\r\n".join(f"7\t{line.split()[1]}" for line in reversed(listed)) + "\r\n")
    source = _load(root).train
    assert source.labels.tolist() == [2, 1, 0] * 3
    assert isinstance(source, EncodedSource) and source.store.name(8).endswith("train.rec record 8"), "7 is the key of all"


def test_records_without_an_index_are_read_in_their_order(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = _load(root).train
    (root / "train.idx").unlink()
    with caplog.at_level("INFO"):
        after = _load(root).train
    assert after.labels.tolist() == before.labels.tolist()
    assert all(np.array_equal(after.read(index), before.read(index)) for index in range(9))
    assert "train.rec, in file order because there is no index" in caplog.text


def test_records_in_several_parts_are_found_without_an_index(tmp_path: Path) -> None:
    records = [ImageRecord(n, n % 2, _MAGIC * n + bytes(n % 5)) for n in range(9)]
    path = _write(tmp_path / "train.rec", records)
    positions = RecordReader(path).positions.tolist()
    path.with_suffix(".idx").unlink()
    reader = RecordReader(path)
    assert reader.positions.tolist() == positions and [reader.read(n) for n in range(9)] == records


@pytest.mark.parametrize("cut", [1, 5, 300, 1400])
def test_a_file_without_an_index_is_refused_where_its_records_end(root: Path, cut: int) -> None:
    content = (root / "train.rec").read_bytes()
    last = int(RecordReader(root / "train.rec").positions[-1])
    (root / "train.idx").unlink()
    (root / "train.rec").write_bytes(content[: len(content) - cut])
    with pytest.raises(RequestError, match=rf"train.rec is damaged or truncated at byte {last} of \d+, after 8 records"):
        _load(root, damaged="skip")
    (root / "train.rec").write_bytes(b"")
    with pytest.raises(RequestError, match="train.rec is empty"):
        _load(root)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("with_index", [True, False])
def test_a_record_file_of_terabytes_of_nothing_is_refused_and_takes_no_memory(root: Path, with_index: bool) -> None:
    with (root / "train.rec").open("r+b") as file:
        file.truncate(2**42)  # sparse
    if not with_index:
        (root / "train.idx").unlink()
    with pytest.raises(
        RequestError, match="rec (key 102 is damaged: it ends \\d+ bytes before the end|is damaged or truncated)"
    ):
        _load(root)
    with (root / "train.rec").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(RequestError, match="train.rec has no record at 9 of|is damaged or truncated at byte 0"):
        _load(root, damaged="skip")


def test_a_record_that_ends_before_the_next_one_is_damaged(root: Path) -> None:
    _spoil(root / "train.rec", 30, 4, struct.pack("<I", 600))
    with pytest.raises(DamagedImageError, match=r"train.rec key 30 is damaged: it ends \d+ bytes before the next one"):
        _load(root)
    assert _load(root, damaged="skip").left_out["train"] == 1


def _with_labels(path: Path, *labels: object) -> None:
    """Records as MXNet's im2rec writes them: with one label or several labels each."""
    import mxnet as mx

    path.parent.mkdir(exist_ok=True)
    theirs = mx.recordio.MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "w")
    for key, label in enumerate(labels):
        theirs.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), _image(key)))
    theirs.close()


@pytest.mark.parametrize("damaged", ["stop", "skip"])
def test_several_labels_in_each_record_are_not_taken_for_damage(tmp_path: Path, damaged: str) -> None:
    _with_labels(tmp_path / "train.rec", *([float(n % 2), 7.0] for n in range(6)))
    with pytest.raises(RequestError, match=r"several labels per image \(2 in .*key 0\).*label_width") as caught:
        _load(tmp_path, damaged=damaged)
    assert not isinstance(caught.value, DamagedImageError)


def test_labels_that_would_make_a_network_of_millions_of_outputs_are_refused(tmp_path: Path) -> None:
    _with_labels(tmp_path / "train.rec", 0.0, 1.0, 3_000_000.0)
    with pytest.raises(
        RequestError, match="3 images with labels up to 3000000, so most of the network's 3000001 outputs.*classes.txt"
    ):
        _load(tmp_path)
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(RequestError, match="has 2 class names, but a record has the label 3000000"):
        _load(tmp_path)


def test_classes_without_images_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _with_labels(tmp_path / "train.rec", 1.0, 1.0, 2.0, 2.0)
    _with_labels(tmp_path / "test.rec", 2.0)
    _load(tmp_path)
    assert "the training set has no image of 1 class (class 0), of 3 classes" in caplog.text
    assert "the test set has no image of 2 classes (class 0, class 1), of 3 classes" in caplog.text
    assert "macro_f1" in caplog.text


def test_classes_that_only_the_test_set_has_and_a_single_class_are_refused(tmp_path: Path) -> None:
    _with_labels(tmp_path / "train.rec", 0.0, 1.0, 0.0)
    _with_labels(tmp_path / "test.rec", 2.0, 1.0)
    with pytest.raises(RequestError, match=r"the test set has images of 1 class \(class 2\) without training"):
        _load(tmp_path)
    _with_labels(tmp_path / "train.rec", 0.0, 0.0, 0.0)
    (tmp_path / "test.rec").unlink()
    with pytest.raises(RequestError, match="there is only one class, class 0; a classifier needs at least two"):
        _load(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["train.rec", "train.idx", "val.rec", "classes.txt"])
def test_a_fifo_in_place_of_a_file_is_named_and_blocks_nothing(root: Path, name: str) -> None:
    (root / name).unlink()
    os.mkfifo(root / name)
    with pytest.raises(RequestError, match=f"{name} cannot be read: it is a FIFO"):
        _load(root)


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "val.rec", "classes.txt"])
def test_a_link_to_nothing_is_not_taken_for_a_file_that_is_not_there(root: Path, name: str) -> None:
    (root / name).unlink()
    (root / name).symlink_to("nothing")
    with pytest.raises(RequestError, match=f"{name} cannot be read: No such file"):
        _load(root)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"\xef\xbb\xbfant\r\nbee\r\ncat", ("ant", "bee", "cat")),
        ("ant\nb\u2028e\ncat\x1b\n".encode(), ("ant", "b\u2028e", "cat\\x1b")),
    ],
)
def test_class_names_are_lines_of_any_system(root: Path, content: bytes, names: tuple[str, ...]) -> None:
    (root / "classes.txt").write_bytes(content)
    assert _load(root).train.class_names == names


def test_class_names_that_are_not_utf8_are_refused_with_their_line(root: Path) -> None:
    (root / "classes.txt").write_bytes(b"ant\nb\xeb\ncat\n")
    with pytest.raises(RequestError, match="classes.txt cannot be read: line 2 is not UTF-8"):
        _load(root)


def test_a_second_test_file_is_reported_and_not_read(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for suffix in (".rec", ".idx"):
        (root / f"test{suffix}").write_bytes((root / f"val{suffix}").read_bytes())
    with caplog.at_level("INFO"):
        _load(root)
    assert "test.rec; other entries, not read: val.rec" in caplog.text


def test_framing_pads_to_four_bytes() -> None:
    assert [len(frame(bytes(size))) for size in range(6)] == [8, 12, 12, 12, 12, 16]
