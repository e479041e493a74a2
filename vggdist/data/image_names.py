"""From what a person names on a command line or on standard input to the files of images, in that order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vggdist.config.errors import RequestError
from vggdist.data.folder import walk

_LONGEST = 2**16
"""Bytes of a name; Linux opens none above 4,096."""


def files(names: Iterable[str], patterns: bool = True) -> Iterator[Path | RequestError]:
    """The file of each name, those below each folder, and those that a pattern such as ``*.jpg`` or ``**/*.png`` matches.

    Nothing is opened: a file may not be there. A folder that cannot be read or holds no image is an error in its place.

    Args:
        patterns: whether a name that does not exist may be a pattern.
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
        yield RequestError(f"{name} holds no .jpg, .jpeg or .png file")


def read_names(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    """The names in a stream, each as soon as it has arrived; without empty ones.

    Args:
        separator: behind each name. With a line feed, a carriage return before it is no part of the name either.

    Raises:
        RequestError: the stream cannot be read, or something in it is too long for a name.
    """
    end = b"\r" if separator == b"\n" else b""
    rest = b""
    try:
        while part := stream.read1(_LONGEST):  # type: ignore[attr-defined]
            *whole, rest = (rest + part).split(separator)
            if len(rest) > _LONGEST:
                raise RequestError(f"standard input is no list of names: one has more than {_LONGEST} bytes")
            yield from (os.fsdecode(name) for one in whole if (name := one.removesuffix(end)))
    except OSError as error:
        raise RequestError(f"standard input cannot be read: {error.strerror}") from error
    if rest:
        yield os.fsdecode(rest)
