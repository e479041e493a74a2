"""A YAML file of settings, read strictly: each key once, no more than a configuration needs, every value with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from vggdist.config.errors import RequestError

MAX_BYTES = 2**20
_MAX_DEPTH = 16
_MAX_NODES = 10_000  # with every alias followed; a complete configuration has some 200
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 with 1e-7 as a number, and without dates."""


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
    """One key of a section, as a file has it.

    Attributes:
        value: as YAML reads it.
        text: a single value as it is written; None for null, a list or a mapping.
        line: from 1.
    """

    section: str
    name: str
    value: Any
    text: str | None
    line: int


def parse_value(text: str) -> Any:
    """A value of a flag, as YAML reads it; text that is no YAML is itself."""
    try:
        return _construct(_compose(text))
    except (yaml.YAMLError, RequestError, UnicodeEncodeError):
        return text


def parse_file(content: str, name: str) -> list[Entry]:
    """The entries of a file of sections.

    Args:
        name: of the file, for messages.

    Raises:
        RequestError: the content is not YAML, a key is there twice, a section has no keys, or the file is out of all
            proportion; the message names the file and the line.
    """
    try:
        root = _compose(content)
        if not isinstance(root, yaml.MappingNode):
            raise RequestError("it holds no sections; expected lines such as 'train:' with keys under it")
        return [entry for section in _pairs(root) for entry in _entries(*section)]
    except yaml.YAMLError as error:
        raise RequestError(f"{name}{_explanation(error, content)}") from None
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None


def _entries(key: yaml.Node, section: yaml.Node) -> Iterator[Entry]:
    if not isinstance(section, yaml.MappingNode):
        got = "empty" if section.tag == _NULL else "not a section"
        raise RequestError(f"line {_line(key)}: {key.value} is {got}; expected its keys under it, or remove it")
    for name, value in _pairs(section):
        text = value.value if isinstance(value, yaml.ScalarNode) and value.tag != _NULL else None
        yield Entry(str(key.value), str(name.value), _construct(value), text, _line(name))


def _compose(content: str) -> yaml.Node:
    """The graph of a document, after a look at its size."""
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
    """Nodes below a node, each as often as aliases name it."""
    if id(node) not in known:
        known[id(node)] = _MAX_NODES + 1  # an alias within its own anchor never ends
        children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = children if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(_size(child, known) for child in inner)
    return known[id(node)]


def _pairs(mapping: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """Key and value, each key once."""
    seen: dict[str, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            raise RequestError(f"line {_line(key)}: expected a key")
        if key.value in seen:
            where = f"lines {seen[key.value]} and {_line(key)}"
            raise RequestError(f"{where}: the key {key.value} is there twice; keep one of them")
        seen[key.value] = _line(key)
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
    lines = content.split("\n")  # the mark of a file that is cut short may stand behind the last one
    if mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return f"{where}: there is a tab; indent by spaces, as YAML requires"
    return f"{where}: it is not YAML: {' '.join(problem.split())}"
