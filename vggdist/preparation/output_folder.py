"""Output folder of ``vggdist prepare``: atomic writes, locking, and protection of files that it did not write."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vggdist.config.errors import RequestError
from vggdist.config.files import read_regular
from vggdist.config.text import printable

_OWN = ".prepare"
_LIMIT = 2**30  # maximum size of a file in it, in bytes


class OutputFolder:
    """An output folder, used by one process at a time.

    Unfinished files, and the list of the finished ones, are in its subfolder ``.prepare``. A file gets its final name only
    when it is complete. It replaces an existing file only if an earlier call wrote that one and it has not been changed since.
    """

    def __init__(self, folder: Path) -> None:
        """Take a folder that may not exist; :meth:`locked` must be entered before any other method is called."""
        self.folder, self.own = folder, folder / _OWN
        self._written = self.own / "written"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it; the kernel releases the lock when the process ends, also if it is killed.

        Raises:
            RequestError: another process holds the lock, or ``.prepare`` is not a folder.
        """
        try:
            self.own.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise RequestError(f"{error.filename} is not a folder; specify another TARGET") from error
        if self.own.is_symlink():
            raise RequestError(f"{self.own} is a symlink; remove it, or specify another TARGET")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(self.own / "lock", flags, 0o644), "r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(
                    f"{self.folder} is in use by {printable(lock.read(200))}; wait for it, or specify another TARGET"
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def require_own(self, names: Sequence[str]) -> None:
        """Raise ``RequestError`` if a file of one of these names exists that an earlier call did not write."""
        for name in names:
            if os.path.lexists(self.folder / name) and not self.is_own(name):
                raise RequestError(
                    f"{self.folder / name} was not written by vggdist prepare, or was changed since, and is not replaced; "
                    f"remove it, or specify another TARGET"
                )

    def is_own(self, name: str) -> bool:
        """Whether a file of this name exists and is unchanged since an earlier call wrote it."""
        stamp = _stamp(self.folder / name)
        return stamp is not None and {"name": name, "stamp": stamp} in read_json_lines(self._written)

    def publish(self, aside: Path, name: str) -> None:
        """Move a complete file from ``own`` to its final name."""
        self.require_own([name])
        with self._written.open("ab") as file:  # recorded before the move, so that a crash between both does no harm
            file.write(json.dumps({"name": name, "stamp": _stamp(aside)}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.folder / name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file under its final name, unless it exists with this content."""
        if not (self.is_own(name) and read_regular(self.folder / name, _LIMIT) == content):
            aside = self.own / name
            write_whole(aside, content)
            self.publish(aside, name)

    def remove(self, name: str) -> None:
        """Remove a file that an earlier call wrote."""
        self.require_own([name])
        (self.folder / name).unlink(missing_ok=True)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one per line, up to the first incomplete line; empty if the file does not exist."""
    try:
        lines = read_regular(path, _LIMIT).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    values: list[dict[str, Any]] = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # a power failure can leave arbitrary bytes
            break
        if not isinstance(value, dict):
            break
        values.append(value)
    return values


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in ``own`` atomically: to a temporary file, fsync, rename."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _stamp(path: Path) -> list[int] | None:
    """Size and modification time of a file, which renaming keeps; None if it does not exist."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return [status.st_size, status.st_mtime_ns]
