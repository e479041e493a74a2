"""Safe reading of untrusted files: regular files only, up to a size limit.

Opening a FIFO blocks until another process writes to it, and ``/dev/zero`` has no end. All errors are ``OSError`` with a
``strerror`` that completes "FILE cannot be read: ...", so a caller needs one ``except`` clause.
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
    """Open a regular file for reading; symlinks are followed.

    Args:
        limit: maximum size of the file in bytes; None: no limit.
        buffering: as in :func:`open`; 0 for positioned reads through the file descriptor.

    Raises:
        OSError: the file cannot be opened, is not regular (``EISDIR`` for a folder, else ``EINVAL``), or is larger than
            ``limit`` (``EFBIG``).
    """
    try:
        # O_NONBLOCK: opening a FIFO does not block, and it is rejected below; regular files ignore the flag.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # the name has a NUL, or cannot be encoded in the file system's encoding
        raise OSError(errno.EINVAL, f"it is not a file name: {error}", os.fspath(path)) from None
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
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        OSError: as in :func:`open_regular`; also if more than ``limit`` bytes are read: the file grows, or reports a size of
            0 as in ``/proc``.
    """
    with open_regular(path, limit, buffering=0) as file:
        parts: list[bytes] = []
        total, wanted = 0, os.fstat(file.fileno()).st_size + 1
        while part := os.read(file.fileno(), wanted):
            parts.append(part)
            total += len(part)
            if total > limit:
                raise _too_large(path, "it has more bytes than its reported size", limit)
            wanted = max(wanted - len(part), 2**16)
    return b"".join(parts)


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """Read a regular file as UTF-8.

    Raises:
        OSError: as in :func:`read_regular`; ``EILSEQ``, with the line, if the content is not UTF-8.
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
    """Convert any error while reading a damaged or hostile file to a ``RequestError`` that names the file.

    Args:
        what: the file; the message begins with it.
        fault: text between ``what`` and the message of an error that is not an ``OSError``.
    """
    try:
        yield
    except (MemoryError, RequestError):
        raise  # insufficient memory does not mean that the file is damaged
    except OSError as error:
        raise RequestError(f"{what} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the parsers of zip, npy, JSON and others raise exceptions of many types
        raise RequestError(f"{what}{fault}{error or type(error).__name__}") from None
