"""MXNet's parameter files are read as by MXNet, without using more memory than the file has bytes."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from vggdist.config.errors import RequestError
from vggdist.weights.files import opened


def read(path: Path) -> dict[str, np.ndarray]:
    with opened(path) as arrays:
        return {name: array.values() for name, array in arrays.items()}


def saved(path: Path, arrays: Any) -> Path:
    mx.nd.save(str(path), arrays)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_have_the_names_shapes_and_values_that_were_saved(dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 2, 1)).astype(dtype)
    path = saved(tmp_path / "a.params", {"arg:w": mx.nd.array(values, dtype=dtype), "aux:m": mx.nd.ones((5,), dtype=dtype)})
    found = read(path)
    np.testing.assert_array_equal(found["w"], values.astype(np.float32))
    assert found["m"].tolist() == [1] * 5 and list(found) == ["w", "m"] and found["w"].dtype == np.float32


def test_another_type_is_refused_where_its_values_are_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.params", {"w": mx.nd.ones((2,), dtype="float64")})
    with pytest.raises(RequestError, match=r"a\.params: w is float64; expected float32, float16 or bfloat16"):
        read(path)


def one_array(
    shape: tuple[int, ...] = (2, 3),
    dimensions: int | None = None,
    storage: int = 0,
    dtype: int = 0,
    values: bytes = bytes(24),
    names: tuple[str, ...] = ("w",),
    arrays: int = 1,
    named: int | None = None,
    length: int | None = None,
) -> bytes:
    """A file whose header fields can be set to wrong values."""
    content = struct.pack("<QQQIi", 0x112, 0, arrays, 0xF993FAC9, storage)
    content += struct.pack("<i", len(shape) if dimensions is None else dimensions) + struct.pack(f"<{len(shape)}q", *shape)
    content += struct.pack("<iii", 1, 0, dtype) + values + struct.pack("<Q", len(names) if named is None else named)
    return content + b"".join(struct.pack("<Q", len(n) if length is None else length) + n.encode() for n in names)


BAD = {
    "it ends within an array": one_array(shape=(2**20, 2**20)),
    r"\(4294967296, 4294967296\)": one_array(shape=(2**32, 2**32), values=b""),
    "shape .*-2": one_array(shape=(-2, 3)),
    "1073741824 dimensions": one_array(dimensions=2**30),
    "-5 dimensions": one_array(dimensions=-5),
    "type 99": one_array(dtype=99),
    "not dense": one_array(storage=1),
    "claims to have": one_array(arrays=2**40),
    "1 arrays and 1099511627776 names": one_array(named=2**40),
    "a name of 1099511627776 bytes": one_array(length=2**40),
    "neither an MXNet .params file": b"not parameters at all",
    "neither .* torch.save file": b"",
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_damaged_or_hostile_is_refused_by_name(message: str, tmp_path: Path) -> None:
    (tmp_path / "a.params").write_bytes(BAD[message])
    with pytest.raises(RequestError, match=rf"a\.params: .*{message}"):
        read(tmp_path / "a.params")


def test_the_array_of_these_cases_is_what_mxnet_reads(tmp_path: Path) -> None:
    (tmp_path / "a.params").write_bytes(one_array(values=np.arange(6, dtype=np.float32).tobytes()))
    expected = mx.nd.load(str(tmp_path / "a.params"))["w"].asnumpy()
    np.testing.assert_array_equal(read(tmp_path / "a.params")["w"], expected)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = saved(tmp_path / "a.params", {"w": mx.nd.ones((3, 2)), "b": mx.nd.ones((2,))}).read_bytes()
    for length in range(len(content)):
        (tmp_path / "a.params").write_bytes(content[:length])
        with pytest.raises(RequestError, match=r"a\.params: "):
            read(tmp_path / "a.params")


def test_arrays_without_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="1 arrays and 0 names; save the network with save_parameters"):
        read(saved(tmp_path / "a.params", [mx.nd.ones((2,))]))


@pytest.mark.parametrize(("ending", "algorithm"), [("params", "sha1"), ("pth", "sha256")])
def test_a_published_file_must_have_the_hash_in_its_name(ending: str, algorithm: str, tmp_path: Path) -> None:
    content = saved(tmp_path / "a.params", {"w": mx.nd.ones((2,))}).read_bytes()
    digits = hashlib.new(algorithm, content).hexdigest()[:8]
    good = (tmp_path / "a.params").rename(tmp_path / f"vgg11_bn-{digits}.{ending}")
    assert read(good)["w"].tolist() == [1, 1]
    bad = good.rename(tmp_path / f"vgg11_bn-0123abcd.{ending}")
    with pytest.raises(RequestError, match=f"{algorithm.upper()} differs from that in its name"):
        read(bad)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.params cannot be read: No such file"):
        read(tmp_path / "none.params")
