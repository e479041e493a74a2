"""Escaping of characters that cannot be printed or encoded in UTF-8."""

from __future__ import annotations

import re

# Control characters, and the lone surrogates by which Python represents file name bytes that are not UTF-8 (PEP 383).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: object) -> str:
    """Convert to ``str`` on one line, with unprintable characters escaped.

    A file name byte that is not UTF-8 becomes ``\\xNN``, as in a shell's ``$'...'``.
    """
    return _UNPRINTABLE.sub(_escaped, str(text))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    elif found[0] in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[found[0]]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
