"""The folder of a run: one process at a time trains there, and nothing in it is lost without being told to."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from pathlib import Path

from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.load import as_yaml
from vggdist.config.schema import Config

_LOCK = ".lock"


def open_directory(directory: Path, config: Config) -> None:
    """Make a run's folder ready for this process, with its configuration. For rank 0.

    Raises:
        RequestError: when another process trains this run, or an earlier run would be overwritten without being told to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _hold(directory)
    store = CheckpointStore(directory / "checkpoints")
    if config.run.resume == "never" and store.directory.exists():
        if not config.run.overwrite:
            raise RequestError(
                f"{directory} holds a run with checkpoints; choose another --run.name, continue it with "
                "--run.resume auto, or remove it with --run.overwrite true"
            )
        _empty(directory)
    store.tidy()
    (directory / "config.yaml").write_text(as_yaml(config))


def _hold(directory: Path) -> None:
    """Keep other processes from training the same run until this one ends, however it ends."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT)  # the end of the process closes it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise RequestError(f"{directory} is being trained by {holder}; wait for it, or use another --run.name") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
