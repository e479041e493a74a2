"""The pickles of CIFAR's Python distribution, read by an interpreter of those operations that they consist of.

Python's unpickler builds whatever a file asks for, even where the functions that it may call are few: ``numpy.ndarray`` of any
size, a list of eight bytes for each number up to 2^32, a tuple whose hash takes hours. The published files need a dictionary
of lists, numbers, strings and arrays of numbers, written by Python 2 with protocol 2.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
_MARK = object()


class NamesError(ValueError):
    """A pickle that names a function or type which no published file has; it was not called."""


@dataclass
class _Named:
    """A function or type that a pickle names; only the operations below know what to do with it."""

    name: str


@dataclass
class _Type:
    """``numpy.dtype`` under construction."""

    text: str
    order: str = "|"


@dataclass
class _Array:
    """``numpy.ndarray`` under construction."""

    values: np.ndarray | None = None


_KNOWN = {
    name: _Named(name)
    for name in (
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
        "_codecs encode",
    )  # the last: Python 3's
}


def read_pickle(content: bytes) -> dict[str, Any]:
    """The dictionary that a pickle holds: by name, a string, a number, a list of them, or an array of whole numbers.

    Bytes and strings of Python 2 become ``str`` by Latin-1.

    Raises:
        NamesError: it names another function or type.
        ValueError: it is not whole, or not made of what the published files are made of.
    """
    try:
        return _Interpreter(len(content)).run(content)
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # operands of other types and numbers than an operation takes
        raise ValueError(f"an operation has operands of no use ({type(error).__name__})") from error


class _Interpreter:
    """The state of a pickle that is being read."""

    def __init__(self, size: int) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._to_copy = 2 * size  # bytes; a string may be used many times, and must not be copied as often

    def run(self, content: bytes) -> dict[str, Any]:
        """Follow the operations to the end."""
        for operation, argument, _ in pickletools.genops(content):
            self._follow(operation.name, argument)
        found = self._pop()
        if self._stack or not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}; expected a dictionary")
        return {name: value.values if isinstance(value, _Array) else value for name, value in found.items()}

    def _follow(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self._stack.append(argument.decode("latin-1") if isinstance(argument, bytes) else argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "GLOBAL":
            if argument not in _KNOWN:
                raise NamesError(str(argument).replace(" ", "."))
            self._stack.append(_KNOWN[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            self._stack.append(tuple(self._marked() if count is None else [self._pop() for _ in range(count)][::-1]))
        elif name in ("APPEND", "APPENDS"):
            values = [self._pop()] if name == "APPEND" else self._marked()
            self._top(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._marked()
            self._set_items(values)
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            self._stack.append(self._called(function, arguments))
        elif name == "BUILD":
            self._build(self._pop())
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"no CIFAR file has the operation {name}")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("an operation lacks its operands")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"an operation expects a {kind.__name__}")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        """All above the newest mark, which is removed as well."""
        values = []
        while self._stack[-1] is not _MARK:
            values.append(self._stack.pop())
        self._stack.pop()
        return values[::-1]

    def _set_items(self, values: list[Any]) -> None:
        if len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("a key of a dictionary is not a string")
        self._top(dict).update(zip(values[::2], values[1::2]))

    def _called(self, function: Any, arguments: Any) -> Any:
        """What a call of one of the known functions makes."""
        first, *others = arguments
        if function is _KNOWN["numpy.core.multiarray _reconstruct"] and first is _KNOWN["numpy ndarray"]:
            return _Array()  # which is empty until it gets its state
        if function is _KNOWN["numpy dtype"] and isinstance(first, str) and first in _INTEGERS:
            return _Type(first)
        if function is _KNOWN["_codecs encode"] and isinstance(first, str) and others == ["latin1"]:
            return first  # text and bytes are the same here
        raise ValueError("it calls a function as no CIFAR file does")

    def _build(self, state: Any) -> None:
        """Give an array or a type its state, which is as numpy's ``__reduce__`` has it."""
        made = self._stack[-1]
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


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
