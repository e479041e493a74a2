"""Zip archives that this program did not write: only stored members, and never more bytes than the file has."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

_LONGEST_DIRECTORY = 2**22
"""Bytes of the directory at the end of an archive, which has about a hundred for each member."""


@contextmanager
def stored_archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """An archive whose members can all be read without taking more memory than the file has bytes.

    Raises:
        ValueError: it is no archive, a member is compressed, or members overlap or have the same name.
        Exception: whatever else Python's reader of zip archives raises.
    """
    # Python's reader makes some hundred bytes of each entry, before it can be asked for their number.
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None or end[zipfile._ECD_SIZE] > _LONGEST_DIRECTORY:  # type: ignore[attr-defined]
        raise ValueError("it is no archive of arrays" if end is None else "its directory is too long")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if compressed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"{compressed[0]} is compressed")
        total = sum(member.file_size for member in members)
        if total > os.fstat(file.fileno()).st_size or len(members) > len(set(archive.namelist())):
            raise ValueError("its members overlap")
        yield archive
