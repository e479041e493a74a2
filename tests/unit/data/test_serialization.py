"""A data set is unchanged by the conversion to plain arrays and back, and no array has objects."""

from __future__ import annotations

import io
import os
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data.dataset import ArraySource, load
from vggdist.data.encoded import EncodedSource
from vggdist.data.serialization import from_arrays, to_arrays


def photograph(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def folder(root: Path) -> DataConfig:
    for name in ("ant", "bee"):
        (root / name).mkdir()
        for seed in range(4):
            (root / name / f"{seed}.jpg").write_bytes(photograph(seed))
    with open(os.fsencode(root / "bee") + b"/\xff\n.jpg", "wb") as file:  # Linux allows such a name
        file.write(photograph(9))
    (root / "ant" / "broken.jpg").write_bytes(b"no image")
    return DataConfig(name="folder", root=str(root), damaged="skip")


def records(root: Path) -> DataConfig:
    for part in ("train", "test"):
        writer = mx.recordio.MXIndexedRecordIO(str(root / f"{part}.idx"), str(root / f"{part}.rec"), "w")
        for seed in range(5):
            writer.write_idx(seed, mx.recordio.pack(mx.recordio.IRHeader(0, seed % 2, seed, 0), photograph(seed)))
        writer.close()
    return DataConfig(name="records", root=str(root))


@pytest.mark.parametrize("kind", ["digits", "folder", "records"])
def test_a_data_set_is_the_same_afterwards(kind: str, tmp_path: Path) -> None:
    config = {"digits": lambda root: DataConfig(), "folder": folder, "records": records}[kind](tmp_path)
    before = load(config, seed=0)
    arrays = to_arrays(before)
    assert not any(array.dtype.hasobject for array in arrays.values())
    after = from_arrays(arrays)
    assert (after.mean, after.std, after.left_out) == (before.mean, before.std, before.left_out)
    for mine, its in ((before.train, after.train), (before.test, after.test)):
        assert type(mine) is type(its) is (ArraySource if kind == "digits" else EncodedSource)
        assert (mine.class_names, mine.channels, mine.image_shape) == (its.class_names, its.channels, its.image_shape)
        assert np.array_equal(mine.labels, its.labels) and len(mine) == len(its)
        assert all(np.array_equal(mine.read(index), its.read(index)) for index in range(len(mine)))


def shared_records(root: Path) -> dict[str, np.ndarray]:
    return to_arrays(load(records(root), seed=0))


def test_records_that_were_rewritten_meanwhile_are_refused(tmp_path: Path) -> None:
    arrays = shared_records(tmp_path)
    (tmp_path / "test.rec").write_bytes((tmp_path / "test.rec").read_bytes() + bytes(4))
    with pytest.raises(RequestError, match="test.rec was changed while it was read"):
        from_arrays(arrays)


def test_an_index_in_another_order_is_refused(tmp_path: Path) -> None:
    arrays = shared_records(tmp_path)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    (tmp_path / "train.idx").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(RequestError, match="train.rec was changed while it was read"):
        from_arrays(arrays)


def test_records_that_are_gone_are_named(tmp_path: Path) -> None:
    arrays = shared_records(tmp_path)
    (tmp_path / "train.rec").unlink()
    with pytest.raises(RequestError, match="train.rec cannot be read: No such file"):
        from_arrays(arrays)
