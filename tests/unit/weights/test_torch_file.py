"""torch.save files are read as by torch, without torch, and no code in them is executed."""

from __future__ import annotations

import copy
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.torch_files import Tensor, tensors, write_old, write_zip
from vggdist.config.errors import RequestError
from vggdist.weights.files import opened

# torch.save(torch.nn.Conv2d(1, 2, 1).state_dict(), "c.pth") of torch 2.13.0
BY_TORCH = (
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x06\x00\x00\x00weightq\x02ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07"
    b"\x00\x00\x00storageq\x04ctorch\nFloatStorage\nq\x05X\x01\x00\x00\x000q\x06X\x03\x00\x00\x00cpuq\x07K\x02tq\x08QK\x00(K\x02K"
    b"\x01K\x01K\x01tq\t(K\x01K\x01K\x01K\x01tq\n\x89h\x00)Rq\x0btq\x0cRq\rX\x04\x00\x00\x00biasq\x0eh\x03((h\x04h\x05X\x01\x00\x00"
    b"\x001q\x0fh\x07K\x02tq\x10QK\x00K\x02\x85q\x11K\x01\x85q\x12\x89h\x00)Rq\x13tq\x14Rq\x15u}q\x16X\t\x00\x00\x00_metadataq\x17"
    b"h\x00)Rq\x18X\x00\x00\x00\x00q\x19}q\x1aX\x07\x00\x00\x00versionq\x1bK\x01sssb."
)
ARRAYS: dict[str, np.ndarray] = {
    "features.0.weight": np.arange(24, dtype=np.float32).reshape(4, 3, 1, 2),
    "features.0.bias": np.array([1.5, -2, 3, 0], np.float16),
    "features.1.num_batches_tracked": np.array(7, np.int64),
}


def read(path: Path) -> dict[str, np.ndarray]:
    with opened(path) as arrays:
        return {name: array.values() for name, array in arrays.items() if array.dtype != "int64"}


def test_the_writer_of_these_tests_writes_what_torch_writes(tmp_path: Path) -> None:
    arrays = {"weight": np.array([0.25, 4], np.float32).reshape(2, 1, 1, 1), "bias": np.array([1, -2], np.float32)}
    path = write_zip(tmp_path / "c.pth", tensors(arrays))
    assert zipfile.ZipFile(path).read("c/data.pkl") == BY_TORCH
    found = read(path)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_tensors_have_their_names_shapes_and_values(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "vgg.pth", tensors(ARRAYS))
    with opened(path) as arrays:
        assert {name: array.shape for name, array in arrays.items()} == {name: one.shape for name, one in ARRAYS.items()}
    found = read(path)
    for name, values in found.items():
        assert values.dtype == np.float32 and values.flags.writeable
        np.testing.assert_array_equal(values, ARRAYS[name].astype(np.float32))
    assert len(found) == 2


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_tensors_may_share_a_storage_and_lie_in_it_in_any_order(write: Any, tmp_path: Path) -> None:
    storage = np.arange(20, dtype=np.float32)
    content = OrderedDict(a=Tensor("0", storage, 2, (3, 2), (1, 4)), b=Tensor("0", storage, 19, (1,), (1,)))
    found = read(write(tmp_path / "vgg.pth", content))
    assert found["a"].tolist() == [[2, 6], [3, 7], [4, 8]] and found["b"].tolist() == [19]


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    bits = (np.array([1.5, -3, 0.15625], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert read(write_zip(tmp_path / "vgg.pth", tensors({"w": bits})))["w"].tolist() == [1.5, -3, 0.15625]


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_a_function_that_a_file_names_is_not_called(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "vgg.pth", OrderedDict(w=Evil(tmp_path / "made")))
    with pytest.raises(RequestError, match=r"vgg\.pth: it contains \S+, which was not executed; save .*state_dict"):
        read(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "made")))  # Python's unpickler does call it
    assert (tmp_path / "made").exists()


DEEP_KEY = b"\x80\x02})q\x00" + 40 * b"h\x00\x86q\x00" + b"K\x01s."
"""A dictionary with a tuple of two tuples of two tuples ... as key, whose hash would take hours."""


def storage_of(count: int) -> Tensor:
    return Tensor("0", np.zeros(count, np.float32), 0, (count,), (1,))


W = OrderedDict(w=storage_of(6))
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "record missing": ({"records": {"data/0": b""}}, "record vgg/data/0 has 0 bytes, not 24"),
    "record too long": ({"records": {"data/0": bytes(28)}}, "record vgg/data/0 has 28 bytes, not 24"),
    "compressed": ({"compression": zipfile.ZIP_DEFLATED}, "data.pkl is compressed"),
    "big endian": ({"records": {"byteorder": b"big"}}, "not little endian"),
    "no pickle": ({"records": {"data.pkl": b""}}, "data.pkl|end|pickle"),
    "not of torch": ({"content": {"epoch": 3, "state": "text"}}, "it contains 'epoch', 'state', but no tensor"),
    "a list": ({"content": [storage_of(6)]}, "not contain a dictionary of tensors"),
    "tensor out of its storage": (
        {"content": OrderedDict(w=Tensor("0", np.zeros(6, np.float32), 2, (5,), (1,)))},
        "exceeds",
    ),
    "strides out of it": (
        {"content": OrderedDict(w=Tensor("0", np.zeros(6, np.float32), 0, (2, 2), (1, 5)))},
        "exceeds",
    ),
    "negative": ({"content": OrderedDict(w=Tensor("0", np.zeros(6, np.float32), 0, (-2,), (1,)))}, "not integers from 0 on"),
    "enlarged by strides": (
        {"content": OrderedDict(w=Tensor("0", np.zeros(6, np.float32), 0, (10**9,), (0,)))},
        "exceeds",
    ),
    "deep key": ({"records": {"data.pkl": DEEP_KEY}}, "key of a dictionary is not a string"),
    "not finite": ({"content": tensors({"w": np.array([1, np.nan], np.float32)})}, "w has values that are not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_damaged_or_hostile_is_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, message = BAD[case]
    path = write_zip(tmp_path / "vgg.pth", **{"content": W, **changes})
    with pytest.raises(RequestError, match=rf"vgg\.pth: .*({message})"):
        read(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for write in (write_zip, write_old):
        content = write(tmp_path / "vgg.pth", tensors(ARRAYS)).read_bytes()
        for length in range(0, len(content), 7):
            (tmp_path / "short.pth").write_bytes(content[:length])
            with pytest.raises(RequestError, match=r"short\.pth: "):
                read(tmp_path / "short.pth")


def test_an_old_file_whose_storage_is_shorter_than_its_tensor_is_refused(tmp_path: Path) -> None:
    content = write_old(tmp_path / "vgg.pth", W).read_bytes()
    (tmp_path / "vgg.pth").write_bytes(content.replace(struct.pack("<q", 6) + bytes(24), struct.pack("<q", 2) + bytes(24)))
    with pytest.raises(RequestError, match="the size of storage 0 differs"):
        read(tmp_path / "vgg.pth")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """Overlapping members would use more memory than the file has bytes."""
    path, stream = tmp_path / "vgg.pth", io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("vgg/data/0", bytes(4000))
        first = archive.infolist()[0]
        for number in range(1, 50):
            other = copy.copy(first)
            other.filename = f"vgg/data/{number}"
            archive.filelist.append(other)
    path.write_bytes(stream.getvalue())
    with pytest.raises(RequestError, match="its members overlap"):
        read(path)
