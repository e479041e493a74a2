"""Supervises a job: ``vggdist supervise -np 4 -- --config FILE``. Restarts it from its newest checkpoint when it dies.

A stop request (SIGTERM, SIGINT, SIGUSR1; SIGHUP counts as SIGTERM) is sent to the ranks on this host. One rank is enough,
because all ranks agree on the stop. It is not sent to the launcher, which would kill the ranks before they have saved. Only if
this host has no rank, the launcher gets a safe signal: mpirun SIGUSR1, which it forwards, and ``horovodrun --gloo`` SIGTERM,
after which its ranks have 5 s. Plain ``horovodrun`` on MPI gets none, because it would leave orphans. A second SIGINT kills
the job. If the supervisor itself is killed by SIGKILL, the job may continue to run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError, require
from vggdist.config.load import load, run_directory
from vggdist.processes import streams
from vggdist.processes.job import GRACE_S, Job, launcher_command
from vggdist.processes.signals import STOP_SIGNALS
from vggdist.reporting.result import OUTCOME, Outcome, read_json, read_outcome

FINISHED, FAILED, REFUSED, STOPPED = 0, 1, 2, 75
FINAL = (FINISHED, REFUSED, STOPPED, *(128 + number for number in STOP_SIGNALS))
"""Exit codes of train after which the job is not restarted."""
LONGEST_WAIT_S = 300.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Policy:
    """Maximum number of consecutive restarts without progress, and the first wait before a restart, in seconds."""

    max_restarts: int
    backoff: float


@dataclass(frozen=True)
class Decision:
    """The supervisor's exit code, or None for a restart after ``wait`` seconds; number of restarts without progress so far."""

    exit_code: int | None
    wait: float
    stalled: int


def decide(outcome: Outcome, progressed: bool, stalled: int, policy: Policy, stopping: bool) -> Decision:
    """The decision after an attempt.

    Args:
        stalled: number of consecutive restarts before its end without progress, including its own.
    """
    if stopping or outcome.exit_code in FINAL:
        return Decision(outcome.exit_code, 0, stalled)
    stalled = 0 if progressed else stalled
    if stalled >= policy.max_restarts:
        return Decision(FAILED, 0, stalled)
    return Decision(None, min(LONGEST_WAIT_S, policy.backoff * 2.0 ** min(stalled, 60)), stalled + 1)


def made_progress(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether there is a newer checkpoint. A run that started over removes all earlier ones, so that it counts from step 0."""
    continued = not {*before}.isdisjoint(after)
    return max(after, default=0) > (max(before) if continued else 0)


def fewer_ranks(size: int, global_batch: int, accumulation: int, begun: bool) -> int | None:
    """The next smaller number of ranks, or None. A run without a checkpoint needs equal shares of the global batch."""
    return next((fewer for fewer in range(size - 1, 0, -1) if begun or global_batch % (fewer * accumulation) == 0), None)


class Supervisor:
    """Starts a run until it is finished or stopped, or fails repeatedly without progress."""

    def __init__(self, options: argparse.Namespace, arguments: Sequence[str]) -> None:
        self.config = load("train", arguments)  # raises errors in the arguments before a launcher starts
        alone = options.np == 1 and not options.hosts and not options.launcher
        self.launcher = [] if alone else launcher_command(options.launcher or "horovodrun")
        self.options, self.size = options, options.np
        self.arguments, self.added = arguments, list[str]()
        self.directory = run_directory(self.config)
        self.store = CheckpointStore(self.directory / "checkpoints")
        self.initial_version = _file_version(self.directory / "config.yaml")
        self.received: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
                signal.signal(number, lambda number, frame: self.received.append(number))

    def run(self) -> int:
        """Start the job, and restart it as often as needed; returns the exit code."""
        policy, stalled, attempt = Policy(self.options.max_restarts, self.options.backoff), 0, 1
        _log(f"attempt 1: {shlex.join(self._command())}")
        while True:
            before, outcome = self._steps(), self._attempt()
            decision = decide(outcome, made_progress(before, self._steps()), stalled, policy, bool(self.received))
            if decision.exit_code is not None:
                gave_up = not self.received and decision.exit_code == FAILED
                reason = f"gave up after {decision.stalled} consecutive restarts without progress; " if gave_up else ""
                _log(f"attempt {attempt} was the last: {reason}{outcome.error}; exit code {decision.exit_code}")
                return decision.exit_code
            stalled, attempt = decision.stalled, attempt + 1
            _log(f"attempt {attempt} after {decision.wait:g} s: {outcome.error}; {self._prepare()}")
            deadline = time.monotonic() + decision.wait
            while not self.received and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if self.received:
                outcome = self._stopped()
                _log(f"stopped on request before attempt {attempt}; exit code {outcome.exit_code}")
                return outcome.exit_code

    def _attempt(self) -> Outcome:
        """Start the job, wait for its end, and forward signals to it."""
        with tempfile.TemporaryDirectory(prefix="vggdist-") as folder:
            file = Path(folder) / "outcome"
            job = Job(self._command(), environment={**os.environ, OUTCOME: str(file)})
            self._wait(job)
            return self._outcome(job, file)

    def _wait(self, job: Job) -> None:
        forwarded = 0
        try:
            while job.launcher.poll() is None:
                if forwarded < len(self.received):
                    number = self.received[forwarded]
                    if self.received[: forwarded + 1].count(signal.SIGINT) > 1:
                        message: str | None = f"second SIGINT, killed {job.end(grace=0)}"
                    else:
                        message = job.forward_signal(signal.SIGTERM if number == signal.SIGHUP else number)
                    if message:
                        _log(message)
                        forwarded += 1
                time.sleep(_POLL_S)
        finally:
            if killed := job.end(GRACE_S):
                _log(f"killed remaining processes of the job: {killed}")

    def _command(self) -> list[str]:
        job = [sys.executable, "-m", "vggdist.train", *self.arguments, *self.added]
        hosts = ["-H", self.options.hosts] if self.options.hosts else []
        return [*self.launcher, "-np", str(self.size), *hosts, *job] if self.launcher else job

    def _outcome(self, job: Job, file: Path) -> Outcome:
        """The outcome that train reported, because launchers hide its exit code; else one from the launcher's exit code."""
        if (outcome := read_outcome(file) or self._result_of(job.mark)) is not None:
            lines = (outcome.error or "no error").splitlines()
            # Without the traceback.
            return Outcome(outcome.exit_code, lines[0] if not lines[0].endswith(":") else f"{lines[0]} {lines[-1].strip()}")
        code = job.launcher.returncode
        known = code in (FINISHED, REFUSED, STOPPED)
        if self.received and not known:
            return self._stopped()
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return Outcome(code if known else FAILED, f"the job {ended} and reported no outcome")

    def _result_of(self, mark: str) -> Outcome | None:
        """The outcome in ``result.json``, if it is of this job; for a job whose rank 0 is on another host."""
        found = read_json(self.directory / "result.json") or {}
        job, code = found.get("job"), found.get("exit_code")
        if not isinstance(job, dict) or job.get("mark") != mark or not isinstance(code, int):
            return None
        return Outcome(code, str(found.get("error") or ""))

    def _stopped(self) -> Outcome:
        """The outcome of a stop that no rank has reported; depends on whether there is a checkpoint to continue from."""
        number = signal.Signals(self.received[0])
        if self._continues() and self._steps(complete=True):
            return Outcome(STOPPED, f"stopped by {number.name}; the same command continues from the newest checkpoint")
        stop = signal.SIGTERM if number == signal.SIGHUP else number
        return Outcome(128 + stop, f"stopped by {number.name} before there was a checkpoint")

    def _steps(self, complete: bool = False) -> list[int]:
        """The steps of the checkpoints; none while their folder cannot be read, which the job itself reports."""
        try:
            return self.store.complete_steps() if complete else self.store.steps()
        except OSError as error:
            _log(f"{self.store.directory} cannot be read: {error.strerror}")
            return []

    def _continues(self) -> bool:
        """Whether the checkpoints are of this run: with run.resume never, after an attempt has removed earlier ones."""
        return self.config.run.resume != "never" or _file_version(self.directory / "config.yaml") != self.initial_version

    def _prepare(self) -> str:
        """Set the flags and the number of ranks of the next attempt; returns a description for the log."""
        steps = self._steps() if self._continues() else []
        self.added = ["--run.resume", "auto"] if self.config.run.resume == "never" and self._continues() else []
        plan = f"continuing from step {steps[-1]}" if steps else "starting over"
        if self.options.shrink:
            batch, accumulation = self._global_batch(steps), self.config.train.accumulation
            fewer = fewer_ranks(self.size, batch, accumulation, bool(steps))
            plan += f" on {fewer or self.size} rank(s){'' if fewer else ' again'}"
            self.size = fewer or self.size
            self.added += ["--train.global_batch_size", str(batch)]
        return f"{plan}, adding {shlex.join(self.added)}" if self.added else plan

    def _global_batch(self, steps: Sequence[int]) -> int:
        try:
            state = json.loads((self.store.path(steps[-1]) / "state.json").read_text())
            return int(state["identity"]["global batch size"])
        except (IndexError, OSError, ValueError, KeyError, TypeError, AttributeError):  # no checkpoint yet, or a damaged one
            return self.config.train.global_batch_size or self.config.train.batch_size * int(self.options.np)


def _file_version(path: Path) -> tuple[int, int] | None:
    """Identifies a version of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:  # opening it refreshes the attributes that a network file system caches
            found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _log(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (vggdist supervise --help lists the options; train's own go after --)")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the options before ``--``."""
    parser = _Parser(
        prog="vggdist supervise",
        usage="%(prog)s [-np N] [-H HOSTS] [--launcher WORDS] [--max-restarts N] [--backoff S] [--shrink] -- ARGUMENTS",
        description="Start train with the ARGUMENTS, and restart it from its newest checkpoint when it dies.",
        epilog="Exit codes: 0 finished, 1 failed, 2 the request or its data is wrong, 75 stopped on request with a checkpoint "
        "saved. Example: vggdist supervise -np 4 -- --config configs/quickstart.yaml",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-np", type=int, default=1, metavar="N", help="number of ranks (default: %(default)s)")
    add("-H", dest="hosts", metavar="HOSTS", help="host1:2,host2:2 as the launcher takes it (default: this host)")
    words = "command that takes -np and -H, with its options (default: horovodrun; plain Python for one rank on this host)"
    add("--launcher", metavar="WORDS", help=words)
    restarts = "maximum number of consecutive restarts without a newer checkpoint (default: %(default)s)"
    add("--max-restarts", type=int, default=3, metavar="N", help=restarts)
    wait = "seconds before a restart; doubled after each without a newer checkpoint, up to 300 (default: %(default)g)"
    add("--backoff", type=float, default=1.0, metavar="S", help=wait)
    fewer = "restart with one rank less; before the first checkpoint with the next number that divides the global batch"
    add("--shrink", action="store_true", help=fewer)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Supervise a training; returns the exit code: 0 finished, 1 failed, 2 wrong request, 75 stopped with a checkpoint."""
    streams.protect()
    own = list(sys.argv[1:] if arguments is None else arguments)
    cut = own.index("--") if "--" in own else len(own)
    try:
        options = make_parser().parse_args(own[:cut])
        require(options.np >= 1, "-np", options.np, "at least 1 rank")
        require(options.max_restarts >= 0, "--max-restarts", options.max_restarts, "0 or more restarts")
        require(0 <= options.backoff <= LONGEST_WAIT_S, "--backoff", options.backoff, f"0 to {LONGEST_WAIT_S:g} seconds")
        supervisor = Supervisor(options, own[cut + 1 :])
    except (RequestError, ValueError) as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return REFUSED
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
