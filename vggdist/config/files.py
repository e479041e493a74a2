"""Reading files that this program did not write: only regular ones, and only up to a size that can be right.

Opening a FIFO blocks until another process writes to it, and a link to ``/dev/zero`` has no end. All errors are ``OSError``
with a ``strerror`` that completes "FILE cannot be read: ...", so a caller needs one ``except`` clause.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from vggdist.config.errors import RequestError

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_regular(path: str | os.PathLike[str], limit: int | None = None, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading; links to one are followed.

    Args:
        limit: largest size of the file in bytes; None: any.
        buffering: as in :func:`open`; 0 for positioned reads through the file's descriptor.

    Raises:
        OSError: the file cannot be opened, is not a regular one (``EISDIR`` for a folder, else ``EINVAL``), or is larger than
            ``limit`` (``EFBIG``).
    """
    try:
        # O_NONBLOCK: a FIFO without a writer is opened, and refused below, instead of waited for; regular files ignore it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a name with a NUL, or that the file system's encoding has no bytes for
        raise OSError(errno.EINVAL, f"it is no file name: {error}", os.fspath(path)) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of another kind")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
        if limit is not None and status.st_size > limit:
            raise _too_large(path, f"it has {status.st_size} bytes", limit)
        return os.fdopen(descriptor, "rb", buffering)
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: as in :func:`open_regular`; also where the file grows beyond ``limit`` while it is read, or its size says
            nothing, as in ``/proc``.
    """
    with open_regular(path, limit, buffering=0) as file:
        parts: list[bytes] = []
        total, wanted = 0, os.fstat(file.fileno()).st_size + 1
        while part := os.read(file.fileno(), wanted):
            parts.append(part)
            total += len(part)
            if total > limit:
                raise _too_large(path, "it has more bytes than its size says", limit)
            wanted = max(wanted - len(part), 2**16)
    return b"".join(parts)


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """The content of a regular file in UTF-8.

    Raises:
        OSError: as in :func:`read_regular`; ``EILSEQ``, with the line, where the content is not UTF-8.
    """
    content = read_regular(path, limit)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"line {line} is not UTF-8 (byte {content[error.start]:#04x})"
        raise OSError(errno.EILSEQ, reason, os.fspath(path)) from None


def _too_large(path: str | os.PathLike[str], found: str, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"{found}; expected at most {limit}", os.fspath(path))


@contextmanager
def naming(what: str, fault: str = " is damaged: ") -> Iterator[None]:
    """Turn whatever reading a damaged or hostile file raises into a ``RequestError`` that names it.

    Args:
        what: the file, as the message begins.
        fault: before the text of an error that is not the system's.
    """
    try:
        yield
    except (MemoryError, RequestError):
        raise  # too little memory is no damage
    except OSError as error:
        raise RequestError(f"{what} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the parsers of zip, npy, JSON and others raise what they like
        raise RequestError(f"{what}{fault}{error or type(error).__name__}") from None
