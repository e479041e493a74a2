"""Reader of safetensors files, by the library of that name."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from vggdist.weights.stored_array import MAX_ARRAYS, StoredArray

_LONGEST_HEADER = 2**22
"""Maximum size of the header in bytes, of which an array needs about 100; the library allows 100 MB."""
_TYPES = {"F32": "float32", "F16": "float16", "F64": "float64", "I64": "int64", "I32": "int32"}


def is_safetensors(beginning: bytes) -> bool:
    """Whether a file may be safetensors by its first bytes, at least 9: the length of the header (uint64), then JSON."""
    return len(beginning) >= 9 and beginning[8:9] == b"{" and struct.unpack("<Q", beginning[:8])[0] <= _LONGEST_HEADER


@contextmanager
def read_safetensors(path: Path) -> Iterator[dict[str, StoredArray]]:
    """Open a file and return its arrays by name; their values can be read within the context.

    bfloat16 is not supported here, because numpy does not have it.

    Raises:
        ValueError: it has too many arrays.
        Exception: errors of the library for a damaged file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        if len(names) > MAX_ARRAYS:
            raise ValueError(f"it has {len(names)} arrays; expected at most {MAX_ARRAYS}")
        parts = {name: file.get_slice(name) for name in names}
        yield {
            name: StoredArray(
                name, tuple(part.get_shape()), _TYPES.get(part.get_dtype(), part.get_dtype()), partial(file.get_tensor, name)
            )
            for name, part in parts.items()
        }
