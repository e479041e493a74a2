"""Safe reading of untrusted zip archives: stored members only, and no more bytes than the file has."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

_LONGEST_DIRECTORY = 2**22
"""Limit in bytes of the archive's central directory, which takes about 100 bytes per member."""


@contextmanager
def stored_archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open an archive; reading all its members takes no more memory than the file has bytes.

    Raises:
        ValueError: the file is not an archive, a member is compressed, or members overlap or share a name.
        Exception: any other error of ``zipfile``.
    """
    # zipfile allocates some hundred bytes for each entry before it reports how many there are, so check the size first.
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None or end[zipfile._ECD_SIZE] > _LONGEST_DIRECTORY:  # type: ignore[attr-defined]
        raise ValueError("it is not an archive of arrays" if end is None else "its directory is too long")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if compressed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"{compressed[0]} is compressed")
        total = sum(member.file_size for member in members)
        if total > os.fstat(file.fileno()).st_size or len(members) > len(set(archive.namelist())):
            raise ValueError("its members overlap")
        yield archive
