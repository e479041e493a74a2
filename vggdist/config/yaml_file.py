"""Strict YAML parser for settings: no duplicate keys, limited size and depth, and a line number for each value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from vggdist.config.errors import RequestError

MAX_BYTES = 2**20
_MAX_DEPTH = 16
_MAX_NODES = 10_000  # with all aliases expanded; a complete configuration has about 200
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class _Loader(yaml.CSafeLoader):
    """YAML 1.1, except that 1e-7 is a number and dates are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Entry:
    """One key of a section in a file.

    Attributes:
        value: parsed as YAML.
        text: the literal text of a scalar; None for null, a list or a mapping.
        line: from 1.
    """

    section: str
    name: str
    value: Any
    text: str | None
    line: int


def parse_value(text: str) -> Any:
    """Parse a flag's value as YAML; text that is not valid YAML is returned unchanged."""
    try:
        return _construct(_compose(text))
    except (yaml.YAMLError, RequestError, UnicodeEncodeError):
        return text


def parse_file(content: str, name: str) -> list[Entry]:
    """Parse a file of sections.

    Args:
        name: name of the file, for messages.

    Raises:
        RequestError: the content is not YAML, a key is duplicate, a section has no keys, or the file exceeds a limit; the
            message names the file and the line.
    """
    try:
        root = _compose(content)
        if not isinstance(root, yaml.MappingNode):
            raise RequestError("it has no sections; expected lines such as 'train:' with indented keys below")
        return [entry for section in _pairs(root) for entry in _entries(*section)]
    except yaml.YAMLError as error:
        raise RequestError(f"{name}{_explanation(error, content)}") from None
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None


def _entries(key: yaml.Node, section: yaml.Node) -> Iterator[Entry]:
    if not isinstance(section, yaml.MappingNode):
        got = "empty" if section.tag == _NULL else "not a section"
        raise RequestError(f"line {_line(key)}: {key.value} is {got}; expected indented keys below it; add some or remove it")
    for name, value in _pairs(section):
        text = value.value if isinstance(value, yaml.ScalarNode) and value.tag != _NULL else None
        yield Entry(str(key.value), str(name.value), _construct(value), text, _line(name))


def _compose(content: str) -> yaml.Node:
    """The node graph of a document, after its size is checked."""
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):  # event by event: composing is recursive
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            assert event.start_mark is not None
            raise RequestError(f"line {event.start_mark.line + 1}: it is nested more than {_MAX_DEPTH} deep")
    root = yaml.compose(content, Loader=_Loader)
    if root is None:
        raise RequestError("it is empty")
    if _size(root, {}) > _MAX_NODES:
        raise RequestError(f"with its aliases (*name) it has more than {_MAX_NODES:,} values")
    return root


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of nodes of a tree with all aliases expanded."""
    if id(node) not in known:
        known[id(node)] = _MAX_NODES + 1  # an alias within its own anchor has infinite size
        children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = children if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(_size(child, known) for child in inner)
    return known[id(node)]


def _pairs(mapping: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a mapping without duplicate keys."""
    line_of: dict[str, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            raise RequestError(f"line {_line(key)}: expected a key")
        if key.value in line_of:
            where = f"lines {line_of[key.value]} and {_line(key)}"
            raise RequestError(f"{where}: duplicate key {key.value}; keep one of them")
        line_of[key.value] = _line(key)
    return list(mapping.value)


def _construct(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _explanation(error: yaml.YAMLError, content: str) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    if mark is None:
        return f": it is not YAML: {' '.join(problem.split())}"
    where = f", line {mark.line + 1}"
    lines = content.split("\n")  # the mark may be behind the last line if the file is truncated
    if mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return f"{where}: there is a tab; indent by spaces, as YAML requires"
    return f"{where}: it is not YAML: {' '.join(problem.split())}"
