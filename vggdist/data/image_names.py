"""Expansion of file names, folders and patterns from the command line or standard input to image files, in order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vggdist.config.errors import RequestError
from vggdist.data.folder import walk

_LONGEST = 2**16
"""Maximum length of a name in bytes; Linux accepts at most 4,096."""


def files(names: Iterable[str], patterns: bool = True) -> Iterator[Path | RequestError]:
    """Expand folders to the images below them, and patterns such as ``*.jpg`` or ``**/*.png`` to their matches.

    No file is opened, and it may not exist. A folder that cannot be read or has no images yields an error instead.

    Args:
        patterns: treat names that do not exist as patterns.
    """
    for name in names:
        if patterns and glob.has_magic(name) and not os.path.lexists(name):
            for match in sorted(glob.iglob(name, recursive=True), key=os.fsencode) or [name]:
                yield from _files(match)
        else:
            yield from _files(name)


def _files(name: str) -> Iterator[Path | RequestError]:
    if not os.path.isdir(name):
        yield Path(name)
        return
    found = False
    for one in walk(Path(name)):
        found = True
        yield one
    if not found:
        yield RequestError(f"{name} has no .jpg, .jpeg or .png file")


def read_names(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    """Yield the names in a stream as they arrive, without empty names.

    Args:
        separator: separator of names. If it is a line feed, a carriage return before it is removed, too.

    Raises:
        RequestError: the stream cannot be read, or a name is too long.
    """
    end = b"\r" if separator == b"\n" else b""
    rest = b""
    try:
        while part := stream.read1(_LONGEST):  # type: ignore[attr-defined]
            *whole, rest = (rest + part).split(separator)
            if len(rest) > _LONGEST:
                raise RequestError(f"standard input is not a list of names: one has more than {_LONGEST} bytes")
            yield from (os.fsdecode(name) for one in whole if (name := one.removesuffix(end)))
    except OSError as error:
        raise RequestError(f"standard input cannot be read: {error.strerror}") from error
    if rest:
        yield os.fsdecode(rest)
