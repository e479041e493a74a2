"""A job as a subprocess: its launcher and the ranks on this host."""

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

GRACE_S = 5.0  # for processes that outlive the launcher, and for ranks to start before a signal goes to the launcher
_POLL_S = 0.1
_MARK = "VGGDIST_SUPERVISED"  # in the environment of all processes of a job, including orphans and new sessions


def this_job() -> dict[str, Any]:
    """Identifies the job of this process: host, process id, start time, the supervisor's mark, and SLURM's job."""
    found = slurm.job(os.environ)
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(psutil.Process().create_time())),
        "mark": os.environ.get(_MARK),
        **({"slurm": found} if found else {}),
    }


def launcher_command(text: str) -> list[str]:
    """The words of a launcher's command, with the full path: next to this Python, else on PATH.

    Raises:
        RequestError: the launcher is in neither place, or a quote is not closed.
    """
    try:
        first, *rest = shlex.split(text) or [""]
    except ValueError as error:
        raise RequestError(f"the launcher {text!r} cannot be split into words: {error}") from None
    found = shutil.which(first, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise RequestError(
            f"the launcher {first!r} is neither next to {sys.executable} nor on PATH; specify another, or its path"
        )
    return [found, *rest]


class Job:
    """A launcher and everything that descends from it on this host."""

    def __init__(
        self, command: Sequence[str], output: IO[str] | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Start the launcher.

        Args:
            output: file for stdout and stderr; by default those of this process.
        """
        self.command, self.mark, self.started = command, uuid.uuid4().hex, time.monotonic()
        self.launcher = subprocess.Popen(
            command,
            env={**environment, _MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            # Its own session: otherwise a Ctrl-C in the terminal would also reach the launcher and the ranks.
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        """All processes on this host that descend from the launcher, even after its end."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def forward_signal(self, number: int) -> str | None:
        """Send a signal to the ranks; returns a message, or None if no rank is running yet: call it again."""
        signalled = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[1:3] == ["-m", "vggdist.train"]:  # launchers and shells have these words further right
                    process.send_signal(number)
                    signalled += 1
        if not signalled and time.monotonic() - self.started < GRACE_S:
            return None
        name, launcher = signal.Signals(number).name, Path(self.command[0]).name
        if signalled:
            return f"{name} forwarded to {signalled} rank(s)"
        gloo = launcher == "horovodrun" and "--gloo" in self.command
        safe = signal.SIGUSR1 if launcher in ("mpirun", "mpiexec") else signal.SIGTERM if gloo else None
        if safe:
            self.launcher.send_signal(safe)
        return f"{name}: no rank is on this host; {launcher} gets {safe.name if safe else 'nothing, which would be unsafe'}"

    def end(self, grace: float) -> str:
        """Kill the processes that remain after some seconds; returns a list of them as text."""
        deadline, killed = time.monotonic() + grace, []
        while (remaining := self.processes()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                killed.append(f"{process.pid} ({shlex.join(process.cmdline())[:100]})")
                process.kill()
        # Not for the launcher: waiting here would reap it, and Popen would then return exit code 0.
        psutil.wait_procs([process for process in remaining if process.pid != self.launcher.pid], timeout=GRACE_S)
        return ", ".join(killed)
