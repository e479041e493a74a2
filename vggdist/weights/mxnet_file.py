"""Safe reader of MXNet's ``.params`` files, as written by ``save_parameters``, ``export`` and ``mx.nd.save``.

``mx.nd.load`` is not safe: it allocates the size in a header before it checks the length of the file, and reads a shape of
2^32 x 2^32 as 0 x 0. The format (``NDArray::Save`` in ``src/ndarray/ndarray.cc`` of MXNet 1.9.1) is little endian: 0x112 and 0
(uint64); a count (uint64) and the arrays; a count and the names, each a length (uint64) and bytes. An array is its version
(uint32), its storage type (int32; not in the first version), its shape (int32 and int64s), device (two int32), type (int32)
and values. The oldest format has no version, but the number of dimensions in its place, followed by 32-bit sizes.
"""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vggdist.weights.stored_array import MAX_ARRAYS, RAW, StoredArray, num_bytes

BEGINNING = struct.pack("<QQ", 0x112, 0)
_FIRST_KIND, _STORAGE_KIND, _NUMPY_SHAPES_KIND = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPES = {0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64", 7: "bool", 12: "bfloat16"}
_MOST_SIZES, _LONGEST_NAME = 32, 1000


def read_mxnet(file: BinaryIO) -> dict[str, StoredArray]:
    """Read the arrays by name; the prefixes ``arg:`` and ``aux:`` of an exported network are removed.

    Args:
        file: must stay open as long as values are read.

    Raises:
        ValueError: the file is truncated, or contains anything but dense arrays with names.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(len(BEGINNING))
    (count,) = _take(file, "Q")
    if count > MAX_ARRAYS:
        raise ValueError(f"it claims to have {count} arrays; expected at most {MAX_ARRAYS}")
    found = [_read_array(file, size) for _ in range(count)]
    (named,) = _take(file, "Q")
    if named != count:
        raise ValueError(f"it has {count} arrays and {named} names; save the network with save_parameters")
    names = [_read_name(file).split(":")[-1] for _ in range(count)]
    if len(set(names)) < count:
        raise ValueError("it has duplicate names")
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


def _load(file: BinaryIO, begin: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    file.seek(begin)
    return np.frombuffer(_bytes(file, num_bytes(shape, dtype)), RAW[dtype]).reshape(shape)


def _take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{layout}", _bytes(file, struct.calcsize(f"<{layout}")))


def _bytes(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("it is truncated")
    return content
