"""Files in the format safetensors, read by its own library."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from vggdist.weights.stored_array import MOST_ARRAYS, StoredArray

_LONGEST_HEADER = 2**22
"""Bytes, of which an array takes about a hundred; the library allows 100 MB."""
_TYPES = {"F32": "float32", "F16": "float16", "F64": "float64", "I64": "int64", "I32": "int32"}


def is_safetensors(beginning: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 9, may be one: the length of a header (uint64), and JSON."""
    return len(beginning) >= 9 and beginning[8:9] == b"{" and struct.unpack("<Q", beginning[:8])[0] <= _LONGEST_HEADER


@contextmanager
def read_safetensors(path: Path) -> Iterator[dict[str, StoredArray]]:
    """The arrays of a file by name, whose values can be read within the context.

    bfloat16, which numpy does not have, is among the types that :meth:`StoredArray.values` refuses here.

    Raises:
        ValueError: it has too many arrays; where it is damaged, what the library raises.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        if len(names) > MOST_ARRAYS:
            raise ValueError(f"it has {len(names)} arrays; expected at most {MOST_ARRAYS}")
        parts = {name: file.get_slice(name) for name in names}
        yield {
            name: StoredArray(
                name, tuple(part.get_shape()), _TYPES.get(part.get_dtype(), part.get_dtype()), partial(file.get_tensor, name)
            )
            for name, part in parts.items()
        }
