"""Record files are those of MXNet, read by random access, and what is wrong in them is named."""

from __future__ import annotations

import io
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
from vggdist.data.decode import DamagedImageError
from vggdist.data.encoded import EncodedSource
from vggdist.data.recordio import ImageRecord, RecordReader, RecordWriter, frame
from vggdist.data.sources import ArraySource, DataSet, load

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
    """Overwrite bytes of a record, ``offset`` counted from its beginning."""
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
        TrainingView(data.train, config, 16, 5, (0, 0, 0)).batch(3, samples, samples) for data in (records, folder)
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
        (30, 0, b"\0", "does not begin as a record does"),
        (30, 8, struct.pack("<If", 3, 0), "3 labels"),
        (30, 12, struct.pack("<f", 0.5), "label 0.5"),
        (30, 12, struct.pack("<f", float("nan")), "label nan"),
        (30, 7, b"\x20", "a part of it is missing|cut short|bytes are there"),
        (30, 4, b"\xff\xff", "bytes are there"),
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
    with pytest.raises(RequestError, match=r"train.rec is cut short at \d+ bytes.*of the 9 records"):
        _load(root, damaged=damaged)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("0\t0\n0\t500\n", "names a key twice"),
        ("0\t0\n1\t0\n", "names a position twice"),
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
    with pytest.raises(RequestError, match="classes.txt names 2 classes, but a record has label 2"):
        _load(root)
    (root / "classes.txt").write_text("ant\nant\n\n")
    with pytest.raises(RequestError, match="classes.txt has an empty line or a name twice"):
        _load(root)
    (root / "train.idx").unlink()
    with pytest.raises(RequestError, match="train.idx cannot be read"):
        _load(root)
    (root / "train.rec").unlink()
    with pytest.raises(RequestError, match="train.rec is missing.*vggdist prepare"):
        _load(root)


def test_framing_pads_to_four_bytes() -> None:
    assert [len(frame(bytes(size))) for size in range(6)] == [8, 12, 12, 12, 12, 16]
