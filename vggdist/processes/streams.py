"""Standard output and standard error that never raise an error and never block for long.

The reader may exit (``| head``) or stop reading, the disk may be full, and the streams may be closed from the start
(``>&-``). Output that cannot be written is dropped: the run's files contain all of it. All text is valid UTF-8, because the
thread of horovodrun that reads a rank's output ends at the first invalid byte.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

_TIMEOUT = 5.0
"""Seconds to wait for a reader that does not read; after that output is dropped without waiting until it reads again."""
_CHUNK = select.PIPE_BUF
"""Bytes that can be written to a pipe without blocking when it is ready."""


class _Stream(io.RawIOBase):
    """A file descriptor whose writes never fail."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._timeout = _TIMEOUT

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False

    def write(self, data: Any, /) -> int:
        """Write as much as possible, drop the rest, and return the full length."""
        remaining = memoryview(data).cast("B")
        size = len(remaining)
        try:
            while remaining and self._is_ready():
                remaining = remaining[os.write(self._descriptor, remaining[:_CHUNK]) :]
        except OSError:
            pass
        return size

    def _is_ready(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        ready = bool(poll.poll(1000 * self._timeout))
        self._timeout = _TIMEOUT if ready else 0.0
        return ready


_error = _Stream(2)


def protect() -> None:
    """Replace this process's standard output and error; to be called before any file is opened.

    Streams that were already replaced (a test's capture) are left unchanged.
    """
    for descriptor in range(3):
        _open_if_closed(descriptor)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Stream(1), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_error, sys.stderr)


def results() -> TextIO:
    """Standard output for the results of a command. Nothing is dropped: writing waits for a slow reader, and raises
    ``OSError`` without a reader (``BrokenPipeError``) or disk space."""
    original = sys.__stdout__
    encoding = original.encoding if original is not None and os.isatty(1) else "utf-8"
    return open(1, "w", encoding=encoding, errors="backslashreplace", newline="", closefd=False)


def write_error(text: str) -> None:
    """Write a line to standard error without Python's stream, whose lock a thread that hangs may hold."""
    _error.write(f"{text}\n".encode(errors="backslashreplace"))


def _open_if_closed(descriptor: int) -> None:
    """Open a closed standard descriptor, so that the next file that is opened does not get its number."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _text(stream: _Stream, original: TextIO | None) -> TextIO:
    encoding = original.encoding if original is not None and stream.isatty() else "utf-8"
    return io.TextIOWrapper(stream, encoding, "backslashreplace", line_buffering=True)  # type: ignore[type-var]
