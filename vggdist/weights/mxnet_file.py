"""MXNet's ``.params`` files: what ``save_parameters``, ``export`` and ``mx.nd.save`` write.

``mx.nd.load`` takes the memory that a header asks for before it looks whether the file has so many bytes, and reads a shape of
2^32 x 2^32 as one of 0 x 0. The format is simple (``NDArray::Save`` in ``src/ndarray/ndarray.cc`` of MXNet 1.9.1), little
endian: 0x112 and 0 (uint64); a count (uint64) and as many arrays; a count and as many names, each a length (uint64) and bytes.
An array is its kind (uint32), its storage (int32; not in the first kind), its shape (int32 and int64s), device (two int32),
type (int32) and values. Before there were kinds, the number of sizes stood there, followed by sizes of 32 bits.
"""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from vggdist.weights.stored_array import MOST_ARRAYS, RAW, StoredArray, num_bytes

BEGINNING = struct.pack("<QQ", 0x112, 0)
_FIRST_KIND, _STORAGE_KIND, _NUMPY_SHAPES_KIND = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPES = {0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64", 7: "bool", 12: "bfloat16"}
_MOST_SIZES, _LONGEST_NAME = 32, 1000


def read_mxnet(file: BinaryIO) -> dict[str, StoredArray]:
    """The arrays by name; the names of an exported network lose their ``arg:`` and ``aux:``.

    Args:
        file: open at its beginning, and as long as values are read.

    Raises:
        ValueError: it is not whole, or has something else than dense arrays with names.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(len(BEGINNING))
    (count,) = _take(file, "Q")
    if count > MOST_ARRAYS:
        raise ValueError(f"it claims to have {count} arrays; expected at most {MOST_ARRAYS}")
    found = [_read_array(file, size) for _ in range(count)]
    (named,) = _take(file, "Q")
    if named != count:
        raise ValueError(f"it has {count} arrays and {named} names; save the network with save_parameters")
    names = [_read_name(file).split(":")[-1] for _ in range(count)]
    if len(set(names)) < count:
        raise ValueError("it has the same name twice")
    return {name: StoredArray(name, *array) for name, array in zip(names, found)}


def _read_array(file: BinaryIO, size: int) -> tuple[tuple[int, ...], str, Any]:
    (kind,) = _take(file, "I")
    if kind in (_STORAGE_KIND, _NUMPY_SHAPES_KIND) and _take(file, "i") != (0,):
        raise ValueError("it has an array that is not dense")
    old = kind not in (_FIRST_KIND, _STORAGE_KIND, _NUMPY_SHAPES_KIND)
    (sizes,) = (kind,) if old else _take(file, "i")
    if not 1 <= sizes <= _MOST_SIZES:
        raise ValueError(f"it has an array of {sizes} dimensions")
    shape = _take(file, f"{sizes}{'I' if old else 'q'}")
    _, _, number = _take(file, "iii")
    if min(shape) < 0 or number not in _TYPES:
        raise ValueError(f"it has an array of shape {shape} and type {number}")
    dtype, begin = _TYPES[number], file.tell()
    length = num_bytes(shape, dtype)
    if begin + length > size:
        raise ValueError(f"it ends within an array of shape {shape}")
    file.seek(begin + length)
    return shape, dtype, partial(_load, file, begin, shape, dtype)


def _read_name(file: BinaryIO) -> str:
    (length,) = _take(file, "Q")
    if length > _LONGEST_NAME:
        raise ValueError(f"it has a name of {length} bytes")
    return _bytes(file, length).decode("utf-8")


def _load(file: BinaryIO, begin: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    file.seek(begin)
    return np.frombuffer(_bytes(file, num_bytes(shape, dtype)), RAW[dtype]).reshape(shape)


def _take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{layout}", _bytes(file, struct.calcsize(f"<{layout}")))


def _bytes(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("it is cut short")
    return content
