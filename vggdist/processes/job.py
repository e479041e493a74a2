"""The processes of a job that this process starts, its launcher's and the ranks'."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from vggdist.config.errors import RequestError
from vggdist.launcher import slurm

GRACE_S = 5.0  # for what outlives its launcher, and for a launcher to start ranks before it gets a stop request itself
_POLL_S = 0.1
_MARK = "VGGDIST_SUPERVISED"  # in the environment of all processes of a job: orphans and new sessions keep it


def this_job() -> dict[str, Any]:
    """What identifies the job of this process: host, process, start, the mark of who started it, SLURM's number."""
    found = slurm.job(os.environ)
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(psutil.Process().create_time())),
        "mark": os.environ.get(_MARK),
        **({"slurm": found} if found else {}),
    }


def launcher_words(words: str) -> list[str]:
    """The launcher with its full path: beside this Python, else on PATH.

    Raises:
        RequestError: it is in neither place.
    """
    first, *rest = shlex.split(words) or [""]
    found = shutil.which(first, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise RequestError(f"the launcher {first!r} is neither beside {sys.executable} nor on PATH; name another, or its path")
    return [found, *rest]


class Job:
    """A launcher and everything that descends from it on this host."""

    def __init__(
        self, command: Sequence[str], output: IO[str] | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Start it.

        Args:
            output: file for all that it prints; else that goes where this process's own output goes.
        """
        self.command, self.mark, self.started = command, uuid.uuid4().hex, time.monotonic()
        self.launcher = subprocess.Popen(
            command,
            env={**environment, _MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            # Its own session: a Ctrl-C of the terminal would otherwise reach launcher and ranks beside the supervisor.
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        """All processes on this host that descend from the launcher, whether it still lives or not."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def forward_signal(self, number: int) -> str | None:
        """Hand a signal to the ranks; returns what was done, or None while there may yet be a rank to have it."""
        told = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[1:3] == ["-m", "vggdist.train"]:  # launchers and shells have these words further on
                    process.send_signal(number)
                    told += 1
        if not told and time.monotonic() - self.started < GRACE_S:
            return None
        name, launcher = signal.Signals(number).name, Path(self.command[0]).name
        if told:
            return f"{name} handed on to {told} rank(s)"
        gloo = launcher == "horovodrun" and "--gloo" in self.command
        safe = signal.SIGUSR1 if launcher in ("mpirun", "mpiexec") else signal.SIGTERM if gloo else None
        if safe:
            self.launcher.send_signal(safe)
        return f"{name}: no rank is on this host; {launcher} gets {safe.name if safe else 'nothing, which would be unsafe'}"

    def end(self, patience: float) -> str:
        """Kill what is still there after some seconds; names it."""
        until, named = time.monotonic() + patience, []
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(_POLL_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                named.append(f"{process.pid} ({shlex.join(process.cmdline())[:100]})")
                process.kill()
        # Not the launcher: who waits for it takes its exit code, and Popen would then read 0.
        psutil.wait_procs([process for process in left if process.pid != self.launcher.pid], timeout=GRACE_S)
        return ", ".join(named)
