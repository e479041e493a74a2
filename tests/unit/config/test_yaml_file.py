"""Settings files are parsed strictly, and errors are reported with file and line."""

from __future__ import annotations

import pytest

from vggdist.config.errors import RequestError
from vggdist.config.yaml_file import parse_file, parse_value


def nested_aliases(levels: int) -> str:
    """Each section refers to the previous one ten times."""
    lines = ["a: &a {k: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}"]
    for level in range(1, levels):
        inner = ", ".join(f"x{place}: *{chr(96 + level)}" for place in range(10))
        lines.append(f"{chr(97 + level)}: &{chr(97 + level)} {{{inner}}}")
    return "\n".join(lines)


def test_each_value_has_its_line_and_its_text() -> None:
    entries = parse_file("a:\n  b: 1e-7\n  c: [1, on]\nd: {e: null, f: 2020-01-01}\n", "x.yaml")
    assert [(entry.section, entry.name, entry.value, entry.text, entry.line) for entry in entries] == [
        ("a", "b", 1e-7, "1e-7", 2),
        ("a", "c", [1, True], None, 3),
        ("d", "e", None, None, 4),
        ("d", "f", "2020-01-01", "2020-01-01", 4),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a:\n  b: 1\n  b: 2\n", "x.yaml: lines 2 and 3: duplicate key b"),
        ("a: {b: 1}\nc: {d: 1}\na: {e: 1}\n", "x.yaml: lines 1 and 3: duplicate key a"),
        ("a:\n\tb: 1\n", "x.yaml, line 2: there is a tab; indent by spaces"),
        ("a: [1\n", "x.yaml, line 2: it is not YAML"),
        ("a:\n  b: 1\n  c", "x.yaml, line 4: it is not YAML: could not find expected"),
        ("\0", "x.yaml: it is not YAML"),
        ("", "x.yaml: it is empty"),
        ("- 3", "x.yaml: it has no sections"),
        ("a: 3", "x.yaml: line 1: a is not a section"),
        ("a:\n", "x.yaml: line 1: a is empty"),
        ("a: {b: !!python/object/apply:os.system [ls]}", "x.yaml, line 1: it is not YAML: could not determine a constructor"),
        ("? [a]\n: 1", "x.yaml: line 1: expected a key"),
        ("[" * 20_000, "x.yaml.*(nested more than 16 deep|nesting depth)"),
        ("a: " + "[" * 20 + "]" * 20, "x.yaml: line 1: it is nested more than 16 deep"),
        (nested_aliases(20), "x.yaml: with its aliases .* it has more than 10,000 values"),
        ("a: &a {b: *a}", "x.yaml: with its aliases .* it has more than 10,000 values"),
        ("a: {b: [" + "1, " * 10_001 + "]}", "x.yaml: .* more than 10,000 values"),
    ],
)
def test_what_is_no_file_of_settings_is_refused_with_its_line(content: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_file(content, "x.yaml")


def test_an_alias_is_followed() -> None:
    entries = parse_file("a: {b: &x [1, 2]}\nc: {d: *x}", "x.yaml")
    assert [entry.value for entry in entries] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1e-3", 0.001), ("[1, 2]", [1, 2]), ("null", None), ("true", True), ("no", False), ("{a", "{a"), ("*x", "*x")],
)
def test_a_flag_is_read_as_a_file_is(text: str, value: object) -> None:
    assert parse_value(text) == value
