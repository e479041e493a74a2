"""An array in a file of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

RAW = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
"""How numpy reads the types that parameters may have; it has no bfloat16, which is the upper half of a float32."""
ITEM_SIZES = {
    **{"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8},
    **{"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1},
}
"""Bytes of a number of each type that a file may hold, by its name."""
MOST_ARRAYS = 10_000
"""In one file; VGG-19 with batch normalisation has 119."""


@dataclass(frozen=True)
class StoredArray:
    """An array whose shape is known, and whose values are read when they are asked for.

    Attributes:
        name: in the file.
        dtype: as in :data:`ITEM_SIZES`.
        load: reads the values as numpy reads them by :data:`RAW`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]

    def values(self) -> np.ndarray:
        """The values as a ``float32`` array of its own.

        Raises:
            ValueError: they have another type than float32, float16 or bfloat16, or are not finite.
        """
        if self.dtype not in RAW:
            raise ValueError(f"{self.name} is {self.dtype}; expected float32, float16 or bfloat16")
        raw = self.load()
        if self.dtype == "bfloat16":
            raw = (raw.astype("<u4") << 16).view("<f4")
        values = np.array(raw, np.float32, order="C")
        if not np.isfinite(values).all():
            raise ValueError(f"{self.name} has values that are not finite")
        return values

    def reshaped(self, shape: tuple[int, ...]) -> StoredArray:
        """The same values in another shape of the same size."""
        return replace(self, shape=shape, load=lambda: np.ascontiguousarray(self.load()).reshape(shape))


def num_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a dense array."""
    return math.prod(shape) * ITEM_SIZES[dtype]
