"""Reader of the pickles of CIFAR's Python distribution, written by Python 2 with protocol 2.

They contain a dictionary of lists, numbers, strings and integer arrays. See :mod:`vggdist.config.pickles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.config.pickles import Named, NamesError, PickleReader

__all__ = ["NamesError", "read_pickle"]

_INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
_NAMES = ("numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode")  # the last one: Python 3


@dataclass
class _Type:
    """``numpy.dtype`` under construction."""

    text: str
    order: str = "|"


@dataclass
class _Array:
    """``numpy.ndarray`` under construction."""

    values: NDArray[Any] | None = None


def read_pickle(content: bytes) -> dict[str, Any]:
    """Read a pickled dictionary of strings, numbers, lists of them, and integer arrays.

    Bytes and strings of Python 2 are decoded to ``str`` by Latin-1.

    Raises:
        NamesError: the pickle contains another function or type.
        ValueError: the pickle is incomplete, or contains what the published files do not.
    """
    unpickled = _CifarReader(len(content)).read(content)
    if not isinstance(unpickled, dict):
        raise ValueError(f"it contains a {type(unpickled).__name__}; expected a dictionary")
    return {name: value.values if isinstance(value, _Array) else value for name, value in unpickled.items()}


class _CifarReader(PickleReader):
    def __init__(self, size: int) -> None:
        super().__init__(_NAMES, "CIFAR file")
        self._to_copy = 2 * size  # bytes; limits the copies, because a pickle can refer to one string many times

    def called(self, function: Named, arguments: tuple[Any, ...]) -> Any:
        first, *others = arguments
        match function.name:
            case "numpy.core.multiarray _reconstruct" if first == Named("numpy ndarray"):
                return _Array()  # empty until BUILD sets its state
            case "numpy dtype" if isinstance(first, str) and first in _INTEGERS:
                return _Type(first)
            case "_codecs encode" if isinstance(first, str) and others == ["latin1"]:
                return first  # text and bytes are the same here
        return super().called(function, arguments)

    def built(self, instance: Any, state: Any) -> None:
        """Set the state of an array or a type, in the form of numpy's ``__reduce__``."""
        if isinstance(instance, _Type):
            _, instance.order, *_ = state
            if instance.order not in ("|", "<", ">"):
                raise ValueError("an array's type has no byte order")
            return
        if not isinstance(instance, _Array):
            raise ValueError("an object that is not an array gets an array's state")
        _, shape, kind, by_columns, text = state
        content = text.encode("latin-1")
        self._to_copy -= len(content)
        if self._to_copy < 0 or not isinstance(kind, _Type) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array's state is not in numpy's format")
        flat = np.frombuffer(content, np.dtype(f"{kind.order}{kind.text}"))
        instance.values = flat.reshape(shape, order="F" if by_columns else "C")
