"""Standard output and standard error that never end the process, whoever reads them, and never hold it up for long.

The reader may go away (``| head``), the disk to which they are redirected may be full, they may be closed from the start
(``>&-``), and a pipe's reader may stop to read. What cannot be written is dropped: the files of a run have all of it. All text
is valid UTF-8, since the thread of horovodrun that reads a rank's output ends at the first byte that is not.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

_PATIENCE = 5.0
"""Seconds to wait for a reader that does not read; after that nothing is waited for until it reads again."""
_CHUNK = select.PIPE_BUF
"""Bytes that a pipe which is ready to be written takes without blocking."""


class _Stream(io.RawIOBase):
    """A file descriptor whose writes never fail."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._patience = _PATIENCE

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
        """Write as much as can be written, and say that all of it is."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self._is_ready():
                rest = rest[os.write(self._descriptor, rest[:_CHUNK]) :]
        except OSError:
            pass
        return size

    def _is_ready(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        ready = bool(poll.poll(1000 * self._patience))
        self._patience = _PATIENCE if ready else 0.0
        return ready


_error = _Stream(2)


def protect() -> None:
    """Replace this process's standard output and error; to be called before anything else is opened.

    What another program has put in their place (a test's capture) stays.
    """
    for descriptor in range(3):
        _open_if_closed(descriptor)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Stream(1), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_error, sys.stderr)


def results() -> TextIO:
    """Standard output for what a command was asked to print. Nothing is dropped: writing waits for a slow reader, and raises
    ``OSError`` where there is no reader (``BrokenPipeError``) or no room."""
    former = sys.__stdout__
    encoding = former.encoding if former is not None and os.isatty(1) else "utf-8"
    return open(1, "w", encoding=encoding, errors="backslashreplace", newline="", closefd=False)


def say(text: str) -> None:
    """Write a line to standard error, past Python's stream: another thread may hang with the stream's lock."""
    _error.write(f"{text}\n".encode(errors="backslashreplace"))


def _open_if_closed(descriptor: int) -> None:
    """Let a descriptor that is closed not become the number of the next file that is opened."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _text(stream: _Stream, former: TextIO | None) -> TextIO:
    encoding = former.encoding if former is not None and stream.isatty() else "utf-8"
    return io.TextIOWrapper(stream, encoding, "backslashreplace", line_buffering=True)  # type: ignore[type-var]
