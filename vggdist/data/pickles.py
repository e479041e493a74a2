"""The pickles of CIFAR's Python distribution: a dictionary of lists, numbers, strings and arrays of numbers, written by
Python 2 with protocol 2. See :mod:`vggdist.config.pickles`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vggdist.config.pickles import Named, NamesError, PickleReader

__all__ = ["NamesError", "read_pickle"]

_INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
_NAMES = ("numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode")  # the last: Python 3's


@dataclass
class _Type:
    """``numpy.dtype`` under construction."""

    text: str
    order: str = "|"


@dataclass
class _Array:
    """``numpy.ndarray`` under construction."""

    values: np.ndarray | None = None


def read_pickle(content: bytes) -> dict[str, Any]:
    """The dictionary that a pickle holds: by name, a string, a number, a list of them, or an array of whole numbers.

    Bytes and strings of Python 2 become ``str`` by Latin-1.

    Raises:
        NamesError: it names another function or type.
        ValueError: it is not whole, or not made of what the published files are made of.
    """
    found = _CifarReader(len(content)).read(content)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}; expected a dictionary")
    return {name: value.values if isinstance(value, _Array) else value for name, value in found.items()}


class _CifarReader(PickleReader):
    def __init__(self, size: int) -> None:
        super().__init__(_NAMES, "CIFAR file")
        self._to_copy = 2 * size  # bytes; a string may be used many times, and must not be copied as often

    def called(self, function: Named, arguments: tuple[Any, ...]) -> Any:
        first, *others = arguments
        match function.name:
            case "numpy.core.multiarray _reconstruct" if first == Named("numpy ndarray"):
                return _Array()  # which is empty until it gets its state
            case "numpy dtype" if isinstance(first, str) and first in _INTEGERS:
                return _Type(first)
            case "_codecs encode" if isinstance(first, str) and others == ["latin1"]:
                return first  # text and bytes are the same here
        return super().called(function, arguments)

    def built(self, made: Any, state: Any) -> None:
        """Give an array or a type its state, which is as numpy's ``__reduce__`` has it."""
        if isinstance(made, _Type):
            _, made.order, *_ = state
            if made.order not in ("|", "<", ">"):
                raise ValueError("an array's type has no order of bytes")
            return
        if not isinstance(made, _Array):
            raise ValueError("something that is no array gets the state of one")
        _, shape, kind, by_columns, text = state
        content = text.encode("latin-1")
        self._to_copy -= len(content)
        if self._to_copy < 0 or not isinstance(kind, _Type) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array's state is not as numpy writes it")
        flat = np.frombuffer(content, np.dtype(f"{kind.order}{kind.text}"))
        made.values = flat.reshape(shape, order="F" if by_columns else "C")
