"""The folder that ``vggdist prepare`` writes to: what it wrote there, and what is not its own and stays as it is."""

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
_LIMIT = 2**30  # bytes of the files that are kept there


class OutputFolder:
    """A folder under preparation, by one process at a time.

    All that is not finished, and what is known of what is, lies in a folder ``.prepare`` of its own. A file gets its final
    name only when it is whole, and in place of an earlier one only where that was written by an earlier call and has not
    been changed since.
    """

    def __init__(self, folder: Path) -> None:
        """Take a folder that may not be there yet; use :meth:`held` before anything else."""
        self.folder, self.own = folder, folder / _OWN
        self._written = self.own / "written"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other processes from preparing it; the system ends that even when this one is killed.

        Raises:
            RequestError: another process is at it, or there is something else under the name of the folder within.
        """
        try:
            self.own.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise RequestError(f"{error.filename} is no folder; give another TARGET") from error
        if self.own.is_symlink():
            raise RequestError(f"{self.own} is a link; remove it, or give another TARGET")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(self.own / "lock", flags, 0o644), "r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(
                    f"{self.folder} is being prepared by {printable(lock.read(200))}; wait for it, or give another TARGET"
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def require_own(self, names: Sequence[str]) -> None:
        """Refuse to go on where a file of one of these names would have to be replaced that is not ours."""
        for name in names:
            if os.path.lexists(self.folder / name) and not self.is_own(name):
                raise RequestError(
                    f"{self.folder / name} was not written by vggdist prepare, or was changed since, and is not replaced; "
                    f"remove it, or give another TARGET"
                )

    def is_own(self, name: str) -> bool:
        """Whether there is a file of this name, as an earlier call of ours wrote it."""
        found = _stamp(self.folder / name)
        return found is not None and {"name": name, "stamp": found} in read_json_lines(self._written)

    def publish(self, aside: Path, name: str) -> None:
        """Give a whole file in ``own`` its final name."""
        self.require_own([name])
        with self._written.open("ab") as file:  # before the file has its name: it is ours from its first moment
            file.write(json.dumps({"name": name, "stamp": _stamp(aside)}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.folder / name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file under its final name, unless it is there with this content."""
        if not (self.is_own(name) and read_regular(self.folder / name, _LIMIT) == content):
            aside = self.own / name
            write_whole(aside, content)
            self.publish(aside, name)

    def remove(self, name: str) -> None:
        """Remove a file that an earlier call wrote."""
        self.require_own([name])
        (self.folder / name).unlink(missing_ok=True)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects on the lines of one of our own files, up to the first line that is not whole; none without a file."""
    try:
        lines = read_regular(path, _LIMIT).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # a power failure can leave anything
            break
        if not isinstance(value, dict):
            break
        found.append(value)
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file aside, bring it to the disk, and give it its name; for files in ``own``."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _stamp(path: Path) -> list[int] | None:
    """Size and time of a file, which a new name leaves as they are; None where there is none, or only a link."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return [status.st_size, status.st_mtime_ns]
