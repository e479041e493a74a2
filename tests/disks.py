"""Simulation of full disks."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """Accepts ``room`` bytes by ``os.write``, the last write in part, and fails afterwards."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int, error: int = errno.ENOSPC) -> None:
        self.room, self.error = room, error
        self._write = os.write
        patch.setattr(os, "write", self._limited)

    def _limited(self, descriptor: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(self.error, os.strerror(self.error))
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A file system of the given size (``"256k"``) mounted at a folder; the test is skipped where that is not allowed."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs a small tmpfs: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
