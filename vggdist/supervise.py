"""Keep a job running: ``vggdist supervise -np 4 -- --config FILE``. Starts it again from its newest checkpoint when it dies.

A stop request (SIGTERM, SIGINT, SIGUSR1; SIGHUP counts as SIGTERM) goes to the ranks on this host: one that is told is
enough, for all ranks agree on the stop. The launcher does not get it, for it would kill the ranks before they have saved; only
where this host has no rank it gets what is safe: mpirun SIGUSR1, which it passes on, and ``horovodrun --gloo`` SIGTERM, after
which its ranks have 5 s. Plain ``horovodrun`` on MPI would leave orphans. A second SIGINT kills the job. A supervisor that is
itself killed by SIGKILL can do nothing more: its job may live on.
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
from vggdist.processes.job import GRACE_S, Job, launcher_words
from vggdist.processes.signals import STOP_SIGNALS
from vggdist.reporting.result import OUTCOME, Outcome, read_json, read_outcome

FINISHED, FAILED, REFUSED, STOPPED = 0, 1, 2, 75
FINAL = (FINISHED, REFUSED, STOPPED, *(128 + number for number in STOP_SIGNALS))
"""Exit codes of train after which the job is not started again."""
LONGEST_WAIT_S = 300.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Policy:
    """How many restarts in a row may bring no progress, and the first wait before a restart in seconds."""

    max_restarts: int
    backoff: float


@dataclass(frozen=True)
class Decision:
    """The supervisor's exit code, or (None) a restart after a wait in seconds; restarts in a row not yet seen to progress."""

    exit_code: int | None
    wait: float
    stalled: int


def decide(outcome: Outcome, progressed: bool, stalled: int, policy: Policy, stopping: bool) -> Decision:
    """What follows an attempt, before which ``stalled`` restarts in a row, its own included, had brought no progress."""
    if stopping or outcome.exit_code in FINAL:
        return Decision(outcome.exit_code, 0, stalled)
    stalled = 0 if progressed else stalled
    if stalled >= policy.max_restarts:
        return Decision(FAILED, 0, stalled)
    return Decision(None, min(LONGEST_WAIT_S, policy.backoff * 2.0 ** min(stalled, 60)), stalled + 1)


def made_progress(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether the newest checkpoint's step rose: from 0 in a run that was started anew, which removes all earlier ones."""
    continued = not {*before}.isdisjoint(after)
    return max(after, default=0) > (max(before) if continued else 0)


def fewer_ranks(size: int, global_batch: int, accumulation: int, begun: bool) -> int | None:
    """The next smaller number of ranks, if there is one; a run that has not begun needs equal shares of the global batch."""
    return next((fewer for fewer in range(size - 1, 0, -1) if begun or global_batch % (fewer * accumulation) == 0), None)


class Supervisor:
    """Attempts at one run, until it is finished, stopped, or fails without progress."""

    def __init__(self, asked: argparse.Namespace, arguments: Sequence[str]) -> None:
        self.config = load("train", arguments)  # a wrong request is refused before a launcher starts
        alone = asked.np == 1 and not asked.hosts and not asked.launcher
        self.launcher = [] if alone else launcher_words(asked.launcher or "horovodrun")
        self.asked, self.size = asked, asked.np
        self.arguments, self.added = arguments, list[str]()
        self.directory = run_directory(self.config)
        self.store = CheckpointStore(self.directory / "checkpoints")
        self.unopened = _stamp(self.directory / "config.yaml")
        self.received: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, lambda number, frame: self.received.append(number))

    def run(self) -> int:
        """Attempt the run as often as needed; returns the exit code."""
        policy, stalled, attempt = Policy(self.asked.max_restarts, self.asked.backoff), 0, 1
        _say(f"attempt 1: {shlex.join(self._command())}")
        while True:
            before, outcome = self.store.steps(), self._attempt()
            decision = decide(outcome, made_progress(before, self.store.steps()), stalled, policy, bool(self.received))
            if decision.exit_code is not None:
                given_up = not self.received and decision.exit_code == FAILED
                why = f"gave up, restarts in a row without progress: {decision.stalled}; " if given_up else ""
                _say(f"attempt {attempt} was the last: {why}{outcome.error}; exit code {decision.exit_code}")
                return decision.exit_code
            stalled, attempt = decision.stalled, attempt + 1
            _say(f"attempt {attempt} after {decision.wait:g} s: {outcome.error}; {self._prepare()}")
            until = time.monotonic() + decision.wait
            while not self.received and time.monotonic() < until:
                time.sleep(_POLL_S)
            if self.received:
                outcome = self._stopped()
                _say(f"stopped on request before attempt {attempt}; exit code {outcome.exit_code}")
                return outcome.exit_code

    def _attempt(self) -> Outcome:
        """Start the job and wait for its end, handing on what signals come."""
        with tempfile.TemporaryDirectory(prefix="vggdist-") as folder:
            left = Path(folder) / "outcome"
            job = Job(self._command(), environment={**os.environ, OUTCOME: str(left)})
            self._wait(job)
            return self._outcome(job, left)

    def _wait(self, job: Job) -> None:
        handed = 0
        try:
            while job.launcher.poll() is None:
                if handed < len(self.received):
                    number = self.received[handed]
                    if self.received[: handed + 1].count(signal.SIGINT) > 1:
                        told: str | None = f"second SIGINT, killed {job.end(patience=0)}"
                    else:
                        told = job.forward_signal(signal.SIGTERM if number == signal.SIGHUP else number)
                    if told:
                        _say(told)
                        handed += 1
                time.sleep(_POLL_S)
        finally:
            if killed := job.end(GRACE_S):
                _say(f"killed what the job left behind: {killed}")

    def _command(self) -> list[str]:
        job = [sys.executable, "-m", "vggdist.train", *self.arguments, *self.added]
        hosts = ["-H", self.asked.hosts] if self.asked.hosts else []
        return [*self.launcher, "-np", str(self.size), *hosts, *job] if self.launcher else job

    def _outcome(self, job: Job, left: Path) -> Outcome:
        """What train reported, for launchers hide its exit code; else what is known of the job's end."""
        if (outcome := read_outcome(left) or self._result_of(job.mark)) is not None:
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
        """What ``result.json`` says of a job, whose rank 0 may be on another host."""
        found = read_json(self.directory / "result.json") or {}
        job, code = found.get("job"), found.get("exit_code")
        if not isinstance(job, dict) or job.get("mark") != mark or not isinstance(code, int):
            return None
        return Outcome(code, str(found.get("error") or ""))

    def _stopped(self) -> Outcome:
        """The outcome of a stop that no rank has reported: whether the same command continues from a checkpoint."""
        number = signal.Signals(self.received[0])
        if self._continues() and self.store.complete_steps():
            return Outcome(STOPPED, f"stopped by {number.name}; the same command continues from the newest checkpoint")
        stop = signal.SIGTERM if number == signal.SIGHUP else number
        return Outcome(128 + stop, f"stopped by {number.name} before there was a checkpoint")

    def _continues(self) -> bool:
        """Whether what the folder holds is of this run: with run.resume never, once an attempt has removed what was before."""
        return self.config.run.resume != "never" or _stamp(self.directory / "config.yaml") != self.unopened

    def _prepare(self) -> str:
        """Settle the flags and the number of ranks of the next attempt; tells what it will do."""
        steps = self.store.steps() if self._continues() else []
        self.added = ["--run.resume", "auto"] if self.config.run.resume == "never" and self._continues() else []
        told = f"continuing from step {steps[-1]}" if steps else "starting anew"
        if self.asked.shrink:
            batch, accumulation = self._global_batch(steps), self.config.train.accumulation
            fewer = fewer_ranks(self.size, batch, accumulation, bool(steps))
            told += f" on {fewer or self.size} rank(s){'' if fewer else ' again'}"
            self.size = fewer or self.size
            self.added += ["--train.global_batch_size", str(batch)]
        return f"{told}, adding {shlex.join(self.added)}" if self.added else told

    def _global_batch(self, steps: Sequence[int]) -> int:
        try:
            state = json.loads((self.store.path(steps[-1]) / "state.json").read_text())
            return int(state["identity"]["global batch size"])
        except (IndexError, OSError, ValueError, KeyError, TypeError, AttributeError):  # no checkpoint yet, or a damaged one
            return self.config.train.global_batch_size or self.config.train.batch_size * int(self.asked.np)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells one version of a file from the next."""
    try:
        with path.open("rb") as file:  # opening makes a network file system look afresh
            found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _say(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (vggdist supervise --help lists the options; train's own go after --)")


def parser() -> argparse.ArgumentParser:
    """The options before ``--``."""
    made = _Parser(
        prog="vggdist supervise",
        usage="%(prog)s [-np N] [-H HOSTS] [--launcher WORDS] [--max-restarts N] [--backoff S] [--shrink] -- ARGUMENTS",
        description="Start train with the ARGUMENTS, and start it again from its newest checkpoint when it dies.",
        epilog="Exit codes: 0 finished, 1 failed, 2 the request or its data is wrong, 75 stopped on request with a checkpoint "
        "saved. Example: vggdist supervise -np 4 -- --config configs/quickstart.yaml",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("-np", type=int, default=1, metavar="N", help="number of ranks (default: %(default)s)")
    add("-H", dest="hosts", metavar="HOSTS", help="host1:2,host2:2 as the launcher takes it (default: this host)")
    words = "command that takes -np and -H, with its options (default: horovodrun; plain Python for one rank on this host)"
    add("--launcher", metavar="WORDS", help=words)
    restarts = "restarts in a row without a newer checkpoint after which it gives up (default: %(default)s)"
    add("--max-restarts", type=int, default=3, metavar="N", help=restarts)
    wait = "seconds before a restart; doubled after each without a newer checkpoint, up to 300 (default: %(default)g)"
    add("--backoff", type=float, default=1.0, metavar="S", help=wait)
    fewer = "restart on one rank less; before the first checkpoint on the next number that can share the global batch evenly"
    add("--shrink", action="store_true", help=fewer)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Supervise a training; returns the exit code: 0 finished, 1 failed, 2 wrong request, 75 stopped with a checkpoint."""
    streams.protect()
    own = list(sys.argv[1:] if arguments is None else arguments)
    cut = own.index("--") if "--" in own else len(own)
    try:
        asked = parser().parse_args(own[:cut])
        require(asked.np >= 1, "-np", asked.np, "at least 1 rank")
        require(asked.max_restarts >= 0, "--max-restarts", asked.max_restarts, "0 or more restarts")
        require(0 <= asked.backoff <= LONGEST_WAIT_S, "--backoff", asked.backoff, f"0 to {LONGEST_WAIT_S:g} seconds")
        supervisor = Supervisor(asked, own[cut + 1 :])
    except (RequestError, ValueError) as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return REFUSED
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
