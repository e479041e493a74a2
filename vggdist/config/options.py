"""The options of a schema: key, type, default and help text of each, read from the dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

PATH, UNBOUNDED = "path", "unbounded"
PathText = Annotated[str, PATH]
"""Type of a field that holds a path."""
UnboundedFloat = Annotated[float, UNBOUNDED]
"""Type of a field that may be ``inf``."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Metadata of a text field whose values are the keys of a table; ``texts`` describes each in ``--help``."""

    texts: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of a section.

    Attributes:
        key: ``section.name``.
        hint: its type.
        text: the docstring under the field, and the descriptions of its choices.
    """

    key: str
    hint: Any
    default: Any
    text: str

    @property
    def allows_null(self) -> bool:
        """Whether the option accepts null."""
        return type(None) in _alternatives(self.hint)

    @property
    def takes_text(self) -> bool:
        """Whether the option takes literal text instead of a YAML value: ``on``, ``1e5`` and ``12:00`` are names then."""
        kinds = _alternatives(self.hint)
        texts = [kind is str or get_origin(kind) is Literal and isinstance(get_args(kind)[0], str) for kind in kinds]
        return any(texts) and not {bool, int, float} & {*kinds}

    @property
    def takes_list(self) -> bool:
        """Whether the option takes a list."""
        return any(get_origin(kind) is tuple for kind in _alternatives(self.hint))

    @property
    def is_path(self) -> bool:
        """Whether the option is a path."""
        return self._is_marked(PATH)

    @property
    def is_unbounded(self) -> bool:
        """Whether the option may be infinite."""
        return self._is_marked(UNBOUNDED)

    def _is_marked(self, mark: str) -> bool:
        return mark in _metadata(self.hint)

    @property
    def example(self) -> str:
        """A value of the right type, for messages."""
        return _example(next(kind for kind in _alternatives(self.hint) if kind is not type(None)))

    @property
    def metavar(self) -> str:
        """The placeholder of the value in ``--help``."""
        names = []
        for kind in _alternatives(self.hint):
            if get_origin(kind) is Literal:
                names += [str(value) for value in get_args(kind)]
            elif get_origin(kind) is tuple:
                names.append("[...]")
            elif kind is type(None):
                names.append("null")
            elif choices := _choices(self.hint):
                names += choices
            else:
                names.append({bool: "true|false", int: "N", float: "X", str: "PATH" if self.is_path else "TEXT"}[kind])
        return "|".join(names)


@functools.cache
def options(schema: Any) -> Mapping[str, Option]:
    """The options of a dataclass of sections by key, in order."""
    found = {}
    for section in dataclasses.fields(schema):
        part: Any = section.default_factory
        hints, texts, default = typing.get_type_hints(part, include_extras=True), _texts(part), part()
        for field in dataclasses.fields(part):
            key = f"{section.name}.{field.name}"
            hint = hints[field.name]
            choices = [f"{name}: {text}." for name, text in _choices(hint).items()]
            found[key] = Option(key, hint, getattr(default, field.name), " ".join([texts[field.name], *choices]))
    return found


def sections(schema: Any) -> Mapping[str, str]:
    """The docstring of each section of a dataclass of sections, by name."""
    return {section.name: inspect.getdoc(section.default_factory) or "" for section in dataclasses.fields(schema)}


def _metadata(hint: Any) -> list[Any]:
    return [mark for kind in _alternatives(hint, strip=False) for mark in getattr(kind, "__metadata__", ())]


def _choices(hint: Any) -> Mapping[str, str]:
    """Description of each value of a field with a :class:`Choice`; empty for other fields."""
    return next((mark.texts for mark in _metadata(hint) if isinstance(mark, Choice)), {})


def _alternatives(hint: Any, strip: bool = True) -> tuple[Any, ...]:
    """The members of a union, or the type itself; ``strip`` removes their metadata."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        return tuple(kind for member in get_args(hint) for kind in _alternatives(member, strip))
    return _alternatives(get_args(hint)[0]) if strip and get_origin(hint) is Annotated else (hint,)


def _example(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return str(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"[{','.join(_example(one) for one in get_args(kind) if one is not Ellipsis)}]"
    return {bool: "true", int: "1", float: "0.1", str: "TEXT"}[kind]


@functools.cache
def _classes(module: str) -> Mapping[str, ast.ClassDef]:
    """The classes of a module by name; inspect.getsource() of each class would parse the whole module for each."""
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}


def _texts(section: Any) -> dict[str, str]:
    """The docstring under each field of a dataclass and its base classes, by the field's name."""
    texts = {}
    for kind in section.__mro__[:-1]:  # all but object
        definition = _classes(kind.__module__)[kind.__name__]
        for field, below in zip(definition.body, definition.body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                assert isinstance(below.value, ast.Constant)
                texts[field.target.id] = inspect.cleandoc(str(below.value.value))
    return texts
