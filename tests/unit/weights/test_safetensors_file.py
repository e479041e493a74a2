"""Safetensors files are read by the library."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vggdist.config.errors import RequestError
from vggdist.weights.files import opened


def read(path: Path) -> dict[str, np.ndarray]:
    with opened(path) as arrays:
        return {name: array.values() for name, array in arrays.items()}


def test_arrays_have_their_names_shapes_and_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 2, 1)).astype(np.float32)
    save_file({"features.0.weight": values, "features.0.bias": np.ones(4, np.float16)}, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(found["features.0.weight"], values)
    assert found["features.0.bias"].tolist() == [1] * 4 and found["features.0.bias"].dtype == np.float32


def file_of(header: object, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        file_of({"w": ENTRY}, bytes(7)),
        file_of({"w": ENTRY}, bytes(9)),
        file_of({"w": {**ENTRY, "shape": [3]}}, bytes(8)),
        file_of({"w": {**ENTRY, "shape": [2**62, 4]}}, bytes(8)),
        file_of({"w": {**ENTRY, "dtype": "BF16", "shape": [4]}}, bytes(8)),
        file_of([ENTRY], bytes(8)),
        file_of({"w": ENTRY}, np.array([1, np.inf], "<f4").tobytes()),
        struct.pack("<Q", 2**62) + b"{}",
    ],
)
def test_what_is_damaged_or_of_another_type_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(RequestError, match=r"a\.safetensors: ."):
        read(tmp_path / "a.safetensors")


def test_the_cases_begin_with_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(file_of({"w": ENTRY}, bytes(8)))
    assert read(tmp_path / "a.safetensors")["w"].tolist() == [0, 0]
