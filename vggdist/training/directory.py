"""The folder of a run: one process at a time trains there, and nothing in it is lost without being told to."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from pathlib import Path

from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.load import as_yaml
from vggdist.config.schema import Config
from vggdist.reporting.report import require_usable

_LOCK = ".lock"
_PATIENCE = 10.0
"""Seconds that a process which continues an elastic run waits for the end of the one that was rank 0 before."""
_held: set[Path] = set()  # by this process, until it ends


def open_directory(directory: Path, config: Config, continues: bool = False) -> None:
    """Make a run's folder ready for this process, with its configuration. For rank 0.

    Args:
        continues: this process goes on with what the ranks have in memory (an elastic run whose ranks have changed).

    Raises:
        RequestError: when another process trains this run, or an earlier run would be overwritten without being told to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if directory in _held:
        return  # the ranks have changed, rank 0 has not
    _hold(directory, _PATIENCE if continues else 0)
    require_usable(directory)
    store = CheckpointStore(directory / "checkpoints")
    if config.run.resume == "never" and not continues and store.directory.exists():
        if not config.run.overwrite:
            raise RequestError(
                f"{directory} holds a run with checkpoints; choose another --run.name, continue it with "
                "--run.resume auto, or remove it with --run.overwrite true"
            )
        _empty(directory)
    store.tidy()
    (directory / "config.yaml").write_text(as_yaml(config))
    _held.add(directory)


def _hold(directory: Path, patience: float) -> None:
    """Keep other processes from training the same run until this one ends, however it ends."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT)  # the end of the process closes it
    until = time.monotonic() + patience
    while not _locked(descriptor):
        if time.monotonic() < until:
            time.sleep(0.05)
            continue
        holder = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise RequestError(f"{directory} is being trained by {holder}; wait for it, or use another --run.name")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
