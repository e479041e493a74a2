"""Safe reading of untrusted pickles: an interpreter of the opcodes for plain data, which calls no function.

An allowlist of callables does not make Python's unpickler safe: a small file can still create a ``numpy.ndarray`` of any size,
a memo of 2^32 entries, or a tuple whose hash takes hours. A subclass of :class:`PickleReader` lists the names that a file may
contain and interprets their calls.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, BinaryIO

_MARK = object()


class NamesError(ValueError):
    """A pickle contains the name of a function or type that is not allowed; it was not called."""


@dataclass(frozen=True)
class Named:
    """Reference to a function or type in a pickle: ``"module name"``."""

    name: str


class PickleReader:
    """Interpreter of one pickle. Its memory is proportional to the pickle's length.

    It supports dictionaries with text keys, lists, tuples, integers, booleans, None, and text (bytes are decoded by Latin-1,
    as Python 2 wrote them). Subclasses override :meth:`called`, :meth:`built` and :meth:`persistent` for everything else.
    """

    def __init__(self, names: Collection[str], kind: str) -> None:
        """Start with an empty stack.

        Args:
            names: ``"module name"`` of the allowed functions and types.
            kind: kind of the file, for messages.
        """
        self._names = {name: Named(name) for name in names}
        self._kind = kind
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, content: bytes | BinaryIO) -> Any:
        """Read the value of a pickle; a file is left positioned at the pickle's end.

        Raises:
            NamesError: a function or type is not allowed.
            ValueError: the pickle is incomplete, or has an unsupported opcode.
        """
        try:
            for operation, argument, _ in pickletools.genops(content):
                self._execute(operation.name, argument)
            value = self._pop()
        except (MemoryError, ValueError):
            raise
        except Exception as error:  # the number or the types of the operands are wrong
            raise ValueError(f"an operation has invalid operands ({type(error).__name__})") from error
        if self._stack:
            raise ValueError("it holds more than one value")
        return value

    def called(self, function: Named, arguments: tuple[Any, ...]) -> Any:
        """Return the result of a call (REDUCE)."""
        raise ValueError(f"a {self._kind} does not call functions in this way")

    def built(self, instance: Any, state: Any) -> None:
        """Set the state of the result of a call (BUILD)."""
        raise ValueError("an object without state gets one")

    def persistent(self, identity: Any) -> Any:
        """Resolve a reference to an object outside the pickle (BINPERSID)."""
        raise ValueError(f"a {self._kind} does not have the operation BINPERSID")

    def _execute(self, name: str, argument: Any) -> None:
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
            raise ValueError(f"a {self._kind} does not have the operation {name}")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("an operation lacks its operands")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"an operation expects a {kind.__name__}")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        """Pop all values above the topmost mark, and the mark."""
        values = []
        while self._stack[-1] is not _MARK:
            values.append(self._stack.pop())
        self._stack.pop()
        return values[::-1]

    def _set_items(self, values: list[Any]) -> None:
        # Only text keys: the hash of a nested tuple takes exponential time.
        if len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("a key of a dictionary is not a string")
        self._top(dict).update(zip(values[::2], values[1::2]))

    def _reduced(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise ValueError("it calls an object that is not a function")
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
