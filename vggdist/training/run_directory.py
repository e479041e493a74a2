"""The folder of a run: only one process at a time trains in it, and only files that a run wrote are ever removed."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.files import read_text
from vggdist.config.load import RUN_FILE, as_yaml
from vggdist.config.schema import Config
from vggdist.config.yaml_file import MAX_BYTES
from vggdist.reporting import events
from vggdist.reporting.report import require_usable
from vggdist.reporting.result import write_whole

_LOCK = ".lock"
_PATIENCE = 10.0
"""Seconds that the new rank 0 of an elastic run waits for the process of the old one to end."""
_EARLIER_EVENTS = "tensorboard"
"""Folder of the event files of earlier versions."""
_WRITTEN = (RUN_FILE, "log.txt", "metrics.jsonl", "result.json", "evaluation.json", "confusion-*.json", events.PATTERN)


class RunDirectory:
    """The folder of a run, on rank 0: locked first, and changed only after everything was checked.

    As a context manager it unlocks a folder that was not opened, and removes it if it was created here: a refused request
    leaves no trace.

    Attributes:
        is_open: whether :meth:`open` was called.
    """

    def __init__(self, path: Path) -> None:
        """Store the path; the folder is not touched yet."""
        self.path = path
        self.store = CheckpointStore(path / "checkpoints")
        self._created: list[Path] = []
        self._lock_file: int | None = None
        self.is_open = False

    def lock(self, config: Config, continues: bool = False) -> None:
        """Create and lock the folder, so that no other process trains this run until this one ends, however it ends.

        Args:
            continues: this process continues from the ranks' memory (an elastic run whose ranks have changed).

        Raises:
            RequestError: when another process trains this run, an earlier run would be overwritten without
                ``run.overwrite``, or the path of the folder or its checkpoints is something else.
        """
        if self._lock_file is not None:
            return  # the ranks have changed, but not rank 0
        self._create()
        self._lock_file = _locked(self.path / _LOCK, _PATIENCE if continues else 0)
        require_usable(self.path)
        if os.path.lexists(self.store.directory) and not self.store.directory.is_dir():
            raise RequestError(f"{self.store.directory} is not a folder; move it away, or use another --run.name")
        if config.run.resume == "never" and not config.run.overwrite and not continues and self.store.directory.exists():
            raise RequestError(
                f"{self.path} holds a run with checkpoints; choose another --run.name, continue it with "
                "--run.resume auto, or remove it with --run.overwrite true"
            )
        self.store.tidy()

    def open(self, config: Config, continues: bool = False) -> bool:
        """Remove the earlier run if ``run.overwrite`` requests that, and write the configuration.

        Returns:
            Whether the folder had another configuration, or none.

        Raises:
            OSError: the configuration cannot be written.
        """
        if config.run.resume == "never" and not continues and self.store.directory.exists():
            self._remove_earlier_run()
        former, now = _content(self.path / RUN_FILE), as_yaml(config)
        write_whole(self.path / RUN_FILE, now)
        self.is_open = True
        return former != now

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock_file is not None:
            os.close(self._lock_file)
        self._lock_file, self.is_open = None, False

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.is_open:
            self._undo_lock()

    def _create(self) -> None:
        missing = [folder for folder in (self.path, *self.path.parents) if not os.path.lexists(folder)]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RequestError(f"{self.path} is not a folder; move it away, or use another --run.name") from None
        self._created = missing

    def _undo_lock(self) -> None:
        """Remove what :meth:`lock` created, and unlock."""
        try:
            if self._created:
                (self.path / _LOCK).unlink(missing_ok=True)
            for folder in self._created:
                folder.rmdir()
        except OSError:
            pass  # it has other files by now
        self.release()

    def _remove_earlier_run(self) -> None:
        for path in self._written():
            path.unlink(missing_ok=True)
        self.store.remove_all()
        for folder in (self.path / _EARLIER_EVENTS, self.store.directory):
            try:
                folder.rmdir()
            except OSError:
                pass  # there is none, or it has files that are not the run's

    def _written(self) -> Iterator[Path]:
        for pattern in _WRITTEN:
            yield from self.path.glob(pattern)
        yield from (self.path / _EARLIER_EVENTS).glob(events.PATTERN)


def _content(path: Path) -> str | None:
    """Content of a text file; None if it cannot be read."""
    try:
        return read_text(path, MAX_BYTES)
    except OSError:
        return None


def _locked(path: Path, patience: float) -> int:
    """Lock a file, and return its descriptor; the lock ends with the process."""
    try:
        # Not through a link: the file is truncated, and a link may point to any file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RequestError(f"{path} cannot be opened: {error.strerror}; remove it, or use another --run.name") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RequestError(f"{path} is not a regular file; remove it, or use another --run.name")
    until = time.monotonic() + patience
    while not _try_lock(descriptor):
        if time.monotonic() < until:
            time.sleep(0.05)
            continue
        holder = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise RequestError(f"{path.parent} is being trained by {holder}; wait for it, or use another --run.name")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
