"""An array in a weight file, read on demand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

RAW = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
"""Type with which numpy reads each supported parameter type; bfloat16 is the upper half of a float32."""
ITEM_SIZES = {
    **{"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8},
    **{"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1},
}
"""Size in bytes of each type that a file may contain."""
MAX_ARRAYS = 10_000
"""Maximum number of arrays in a file; VGG-19 with batch normalisation has 119."""


@dataclass(frozen=True)
class StoredArray:
    """An array of known shape whose values are read on demand.

    Attributes:
        name: in the file.
        dtype: a key of :data:`ITEM_SIZES`.
        load: reads the values with the type in :data:`RAW`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], NDArray[Any]]

    def values(self) -> NDArray[np.float32]:
        """Read the values as a new ``float32`` array.

        Raises:
            ValueError: the type is not float32, float16 or bfloat16, or a value is not finite.
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
    """Size of a dense array in bytes."""
    return math.prod(shape) * ITEM_SIZES[dtype]
