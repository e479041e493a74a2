"""Printed text has no unprintable characters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vggdist.config.errors import RequestError
from vggdist.config.text import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Müller/猫 \U0001f408", "Müller/猫 \U0001f408"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        (Path(os.fsdecode(b"d/caf\xe9.jpg")), r"d/caf\xe9.jpg"),
        ("\x1b[31mred\n\t\r\x00\x7f\x9b", r"\x1b[31mred\n\t\r\x00\x7f\x9b"),
        ("\ud83d", r"\ud83d"),
        (12, "12"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: object, expected: str) -> None:
    assert printable(text) == expected
    printable(text).encode()


def test_the_message_of_an_error_keeps_its_lines_and_can_be_encoded() -> None:
    message = str(RequestError(f"{os.fsdecode(b'caf' + bytes([0xE9]))} is damaged\nsecond line\x1b"))
    assert message == "caf\\xe9 is damaged\nsecond line\\x1b" and message.encode()
    assert str(RequestError()) == ""
