"""Start of real ranks from a test, with a deadline and a check for remaining processes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

LAUNCHERS = ("python", "horovodrun", "horovodrun --gloo", "mpirun")
BIN = Path(sys.executable).parent
HAS_BFLOAT16 = "avx512bw" in Path("/proc/cpuinfo").read_text()  # oneDNN's needs AVX-512
DEADLINE = 600.0
"""Seconds for a command that may share the cores with all other tests; only a hang takes as long."""
NO_MPI = "mpirun, or MPI in Horovod, is not installed (apt install openmpi-bin libopenmpi-dev, then rebuild)"
_TOKEN = "VGGDIST_TEST_TOKEN"


@dataclass(frozen=True)
class Finished:
    """A finished command."""

    code: int
    output: str


def command_line(launcher: str, size: int) -> list[str]:
    """The launch command before ``-m vggdist.train``; skips the test if the launcher is not installed."""
    if launcher == "python":
        return [sys.executable]
    if launcher == "mpirun":
        if not has_mpi():
            pytest.skip(NO_MPI)
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        return ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-np", str(size), sys.executable]
    program, *flags = launcher.split()
    horovodrun = [sys.executable, "-m", "tests.horovodrun"] if flags == ["--gloo"] else [str(BIN / program)]
    return [*horovodrun, *flags, "-np", str(size), sys.executable]


@functools.cache
def has_mpi() -> bool:
    """Whether ``mpirun`` and Horovod's MPI support are installed."""
    if shutil.which("mpirun") is None:
        return False
    # horovodrun --check-build reports the same, but tries to import each framework: 15 s.
    check = "import sys, horovod.mxnet; sys.exit(not horovod.mxnet.mpi_built())"
    return subprocess.run([sys.executable, "-c", check], capture_output=True, timeout=DEADLINE).returncode == 0


def run(launcher: str, size: int, arguments: list[str], cwd: Path, deadline: float = DEADLINE, **environment: str) -> Finished:
    """Run Python under a launcher."""
    return execute([*command_line(launcher, size), *arguments], cwd, deadline, **environment)


def execute(command: list[str], cwd: Path, deadline: float, **environment: str) -> Finished:
    """Run a command.

    Fails the test when the command is not over by the deadline (seconds), or when a process of it is left afterwards.
    """
    return Running(command, cwd, deadline, **environment).finish()


class Running:
    """A command that was started; :meth:`finish` must follow."""

    def __init__(self, command: list[str], cwd: Path, deadline: float, **environment: str) -> None:
        self._command, self._token = command, uuid.uuid4().hex
        self._output = tempfile.TemporaryFile()  # a pipe that nobody reads would fill up
        self._shown_from = 0
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "HOROVOD_", "PMIX_"))}
        clean |= {"HOROVOD_GLOO_TIMEOUT_SECONDS": "300", "HOROVOD_START_TIMEOUT": "300"}  # busy cores may need more than 30 s
        clean |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent), _TOKEN: self._token, **environment}
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job of a shell; a script cannot change it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.extend(deadline)
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def extend(self, deadline: float) -> None:
        """Set a new deadline, in seconds from now. A failure shows what is printed from now on."""
        self._deadline, self._until = deadline, time.monotonic() + deadline
        self._shown_from = os.fstat(self._output.fileno()).st_size

    @property
    def output(self) -> str:
        """What all its processes have printed so far."""
        size = os.fstat(self._output.fileno()).st_size
        shown = os.pread(self._output.fileno(), size - self._shown_from, self._shown_from)  # seek() would move their position
        return shown.decode(errors="replace")

    def rank(self, rank: int) -> psutil.Process:
        """The process of a rank, which must have started."""
        if found := self._ranks().get(str(rank)):
            return found
        pytest.fail(f"rank {rank} of {self._command} is not there:\n{self._end()}")

    def has(self, rank: int) -> bool:
        """Whether the process of a rank has started."""
        return str(rank) in self._ranks()

    def _ranks(self) -> dict[str | None, psutil.Process]:
        found = {}
        for process in _processes(self._token):
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if process.cmdline()[1:2] == ["-m"]:  # not the shell around it
                    found[environment.get("HOROVOD_RANK") or environment.get("OMPI_COMM_WORLD_RANK")] = process
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; fails the test if the command ends first, or at the deadline."""
        while not condition():
            ended = self.process.poll() is not None
            if ended and condition():
                return
            if ended or time.monotonic() > self._until:
                pytest.fail(f"{self._command} did not reach the expected state:\n{self._end()}")
            time.sleep(0.02)

    def finish(self) -> Finished:
        """Wait for the end, and check for remaining processes."""
        try:
            self.process.wait(timeout=max(0.0, self._until - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._command} was not over after {self._deadline} s:\n{self._end()}")
        left = _left_behind(self._token, patience=60)
        _kill(self._token)
        assert not left, f"{self._command} left processes behind: {left}\n{self.output}"
        return Finished(self.process.returncode, self.output)

    def _end(self) -> str:
        _kill(self._token)
        self.process.wait(timeout=DEADLINE)
        return self.output


def start(launcher: str, size: int, cwd: Path, *flags: str, deadline: float = DEADLINE, **environment: str) -> Running:
    """Start ``vggdist.train`` in a folder, without waiting for it; a run without a name is ``quickstart``."""
    return Running([*command_line(launcher, size), "-m", "vggdist.train", *named(flags)], cwd, deadline, **environment)


def train(launcher: str, size: int, cwd: Path, *flags: str, deadline: float = DEADLINE, **environment: str) -> Finished:
    """Run ``vggdist.train`` in a folder; a run without a name is ``quickstart``."""
    return run(launcher, size, ["-m", "vggdist.train", *named(flags)], cwd, deadline, **environment)


def named(flags: Sequence[str]) -> list[str]:
    """The flags of a run; one without a name is ``quickstart``."""
    return [*flags] if {"--run.name", "--config"} & {*flags} else ["--run.name", "quickstart", *flags]


def result_of(cwd: Path, name: str = "quickstart") -> dict[str, Any]:
    """The ``result.json`` of a run."""
    return json.loads((cwd / "runs" / name / "result.json").read_text())


def _processes(token: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _left_behind(token: str, patience: float) -> list[str]:
    """Command lines of remaining processes; processes that are exiting have some seconds to end."""
    until = time.monotonic() + patience
    while (left := _processes(token)) and time.monotonic() < until:
        time.sleep(0.1)
    return [" ".join(process.cmdline()) for process in left if process.is_running()]


def _kill(token: str) -> None:
    for process in _processes(token):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
