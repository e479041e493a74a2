"""Pickles that this program did not write, read by an interpreter of the operations that plain data consist of.

Python's unpickler builds whatever a file asks for, even where the functions that it may call are few: ``numpy.ndarray`` of any
size, a list of eight bytes for each number up to 2^32, a tuple whose hash takes hours. Here no function is called: a subclass
of :class:`PickleReader` says which names a file may hold and what becomes of their calls.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, BinaryIO

_MARK = object()


class NamesError(ValueError):
    """A pickle that names a function or type which it must not name; it was not called."""


@dataclass(frozen=True)
class Named:
    """A function or type that a pickle names: ``"module name"``."""

    name: str


class PickleReader:
    """The state of a pickle that is being read. Its memory is proportional to the pickle's length.

    A pickle is made of dictionaries with text as keys, lists, tuples, whole numbers, truth values, None, and text (bytes
    become text by Latin-1, as Python 2 wrote it). What else it has goes through the methods that a subclass defines.
    """

    def __init__(self, names: Collection[str], kind: str) -> None:
        """Begin.

        Args:
            names: ``"module name"`` of the functions and types that may be named.
            kind: of file, for messages.
        """
        self._names = {name: Named(name) for name in names}
        self._kind = kind
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, content: bytes | BinaryIO) -> Any:
        """What a pickle holds; a file is left behind the pickle's end.

        Raises:
            NamesError: it names another function or type.
            ValueError: it is not whole, or not made of what such a file is made of.
        """
        try:
            for operation, argument, _ in pickletools.genops(content):
                self._follow(operation.name, argument)
            found = self._pop()
        except (MemoryError, ValueError):
            raise
        except Exception as error:  # operands of other types and numbers than an operation takes
            raise ValueError(f"an operation has operands of no use ({type(error).__name__})") from error
        if self._stack:
            raise ValueError("it holds more than one value")
        return found

    def called(self, function: Named, arguments: tuple[Any, ...]) -> Any:
        """What a call of a named function makes."""
        raise ValueError(f"it calls a function as no {self._kind} does")

    def built(self, made: Any, state: Any) -> None:
        """Give something that a call has made its state."""
        raise ValueError("something without a state gets one")

    def persistent(self, identity: Any) -> Any:
        """What stands in the file for something outside of the pickle."""
        raise ValueError(f"no {self._kind} has the operation BINPERSID")

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
            if argument not in self._names:
                raise NamesError(str(argument).replace(" ", "."))
            self._stack.append(self._names[argument])
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
            self._stack.append(self._reduced(function, arguments))
        elif name == "BUILD":
            state = self._pop()
            self.built(self._stack[-1], state)
        elif name == "BINPERSID":
            self._stack.append(self.persistent(self._pop()))
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"no {self._kind} has the operation {name}")

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
        # The hash of a nested tuple would take exponential time.
        if len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("a key of a dictionary is not a string")
        self._top(dict).update(zip(values[::2], values[1::2]))

    def _reduced(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no function")
        return self.called(function, arguments)


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
