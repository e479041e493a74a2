"""A file that records are appended to, also while its disk is temporarily full or read-only."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from pathlib import Path

logger = logging.getLogger(__name__)

_LONGEST_BACKLOG = 16 * 2**20
"""Maximum size of the backlog in bytes: some ten thousand lines of metrics."""


class AppendOnlyFile:
    """Appends whole records in order; records that cannot be written are kept in a backlog and written later.

    No method raises ``OSError``: one warning is logged when the file cannot be written, and one when it can be again. The
    methods may be called by several threads.

    Attributes:
        lost: records that were dropped, because the backlog was full or the file was closed.
    """

    def __init__(self, path: Path) -> None:
        """Store the path; the file and its folder are created with the first record."""
        self.path = path
        self.lost = 0
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._entry_synced = self._closed = self._failing = False
        self._backlog: deque[bytes] = deque()
        self._backlog_size = 0

    def append(self, *records: bytes) -> None:
        """Write the backlog and then the records."""
        with self._lock:
            failure = self._write_backlog()
            for record in records:
                if self._closed or self._backlog_size + len(record) > _LONGEST_BACKLOG:
                    self.lost += 1
                else:
                    self._backlog.append(record)
                    self._backlog_size += len(record)
            failure = failure or self._write_backlog()
        self._report(failure)

    def sync(self) -> None:
        """Sync the file to the disk; other threads can append meanwhile."""
        with self._lock:
            failure = self._write_backlog()
            if self._descriptor is None:
                return
            descriptor = os.dup(self._descriptor)  # the file may be closed meanwhile
        try:
            os.fsync(descriptor)
            if not self._entry_synced:
                _sync_folder(self.path.parent)
                self._entry_synced = True
        except OSError as error:
            failure = error
        finally:
            os.close(descriptor)
        self._report(failure)

    def close(self) -> None:
        """Write the backlog, if possible, and close the file."""
        with self._lock:
            if self._closed:
                return
            self._write_backlog()
            self._closed = True
            self.lost += len(self._backlog)
            self._backlog.clear()
            if self._descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(self._descriptor)
                self._descriptor = None
        if self.lost:
            logger.warning("%s lacks %d record(s) that could not be written", self.path, self.lost)

    def _write_backlog(self) -> OSError | None:
        """Write as much as possible; a partly written record is continued later."""
        try:
            while self._backlog:
                written = os.write(self._open(), self._backlog[0])
                self._backlog_size -= written
                rest = self._backlog.popleft()[written:]
                if rest:
                    self._backlog.appendleft(rest)
        except OSError as error:
            return error
        return None

    def _open(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not blocking: a FIFO without a reader would block the training.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(self.path, flags, 0o666)
        return self._descriptor

    def _report(self, failure: OSError | None) -> None:
        """Log that the file has become unwritable, or writable again."""
        if failure is not None and not self._failing:
            self._failing = True  # before the warning, which may be appended to this file
            advice = "the training continues, and the records are written as soon as possible"
            logger.warning("%s cannot be written: %s; %s", self.path, failure.strerror or failure, advice)
        elif failure is None and self._failing:
            self._failing = False
            lacks = f"; {self.lost} record(s) are lost" if self.lost else "; nothing is lost"
            logger.warning("%s is written again%s", self.path, lacks)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
