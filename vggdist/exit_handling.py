"""How a command ends: one message, the exit code, the result where others look for it, and no rank left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from vggdist.collectives.lost_contact import lost_contact
from vggdist.config.errors import BeforeStart, Dismissed, VggdistError
from vggdist.launcher.topology import from_environment
from vggdist.processes import streams
from vggdist.reporting.result import ResultFile, write_outcome
from vggdist.watchdog.watchdog import Verdict, Watchdog

if TYPE_CHECKING:
    from vggdist.collectives.world import World

_Result = TypeVar("_Result", bound=Mapping[str, Any])

STOPPED = 75
_LAUNCHER_ENDS = 10.0
"""Seconds that the other ranks leave rank 0 to refuse what all of them refuse: the launcher ends them when it has left. A
rank that is still there has an error of its own."""
_FAILURE_ARRIVES = 0.3
"""Seconds within which the watch learns that another rank has failed, for which the launcher ends this one."""
_READING_ENDS = 5.0
"""Seconds within which a request is read; it takes less than one."""


class ExitHandler:
    """Turns the outcome of a command into an exit code.

    An error that all ranks share is reported by rank 0 alone; the others leave after it. Any other error is reported by the
    rank that has it, and this process ends at once, so that the launcher ends the rest. A rank that only lost contact with
    the one that failed reports nothing, or what the watch knows of that one.

    Attributes:
        result: the file that receives the outcome, once the command has one. A request that is refused before leaves every
            file as it was.
        can_continue: whether the same command would continue from a checkpoint, asked where a signal ends the command
            before its first step; None until the request is read.
        release: called when a command within a larger program has ended: lets others have what the end of a process would.
    """

    def __init__(self) -> None:
        """Take the place of this process from its launcher's environment, and protect its output."""
        streams.protect()
        topology = from_environment(os.environ)
        self.rank, self.size = topology.rank, topology.size
        self.result: ResultFile | None = None
        self.can_continue: Callable[[], bool] | None = None
        self.release: Callable[[], None] = lambda: None
        self._watch: Watchdog | None = None
        self._ending: int | None = None

    def watch(self, world: World, timeout: float, elastic: bool = False) -> Watchdog:
        """Begin to watch that all ranks live and move; ends with the command, or with the next call.

        Args:
            timeout: seconds.
            elastic: see :meth:`Watchdog.start`.
        """
        self.rank, self.size = world.rank, world.size
        self.close_watch()
        self._watch = Watchdog.start(
            world.rank, world.size, world.gather, timeout, on_failure=self._record_verdict, elastic=elastic
        )
        return self._watch

    def close_watch(self) -> str | None:
        """Stop watching; reports which rank has failed, if one has."""
        if self._watch is None:
            return None
        verdict = self._watch.verdict(patience=0)
        self._watch.close()
        self._watch = None
        return verdict.text if verdict is not None else None

    def run(self, command: Callable[[], Mapping[str, Any]]) -> int:
        """Run a command; returns the exit code, or ends the process."""
        try:
            self._carry_out(command)
        except VggdistError as error:
            if self.rank == 0:
                _write(f"vggdist: {error}")
            if not (self.size == 1 or isinstance(error, BeforeStart)):
                self._wait_for_root()
            return error.exit_code
        except KeyboardInterrupt:
            self._leave_alone("interrupted", 1)
        except Exception as error:
            self._fail(error)
        finally:
            self.close_watch()
        return 0

    def call(self, command: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a command within a larger program; returns its result.

        Raises:
            VggdistError: that all ranks share, or that the only one has.
            Exception: any other error of the only rank. One of several ranks that has an error of its own reports it and ends
                its process, as in :meth:`run`, so that the launcher ends the others.
        """
        try:
            return self._carry_out(command, ends_process=False)
        except VggdistError:
            raise
        except Exception as error:
            if self.size == 1:
                raise
            self._fail(error)
        finally:
            self.close_watch()
            self.release()

    def _carry_out(self, command: Callable[[], _Result], ends_process: bool = True) -> _Result:
        """Run a command and record its outcome; raises the errors that all ranks share.

        Args:
            ends_process: an error from before the ranks are connected ends the processes of ranks above 0, too, which then
                say nothing where rank 0 has said it.
        """
        try:
            result = command()
        except Dismissed as error:
            self._leave(f"vggdist: {error}", error.exit_code)
        except VggdistError as error:
            if ends_process or not isinstance(error, BeforeStart):
                self._settle(error)
            raise
        if self.rank == 0:
            self._record(0, None, result)
        return result

    def stop_before_first_step(self, number: signal.Signals) -> NoReturn:
        """End this process, which a signal has asked to stop before there was a step to complete; from any thread.

        The exit code is 75 where the same command continues from a checkpoint, else 128 and the number of the signal.
        """
        if self._ending is not None:
            os._exit(self._ending)  # a launcher ends the ranks that leave after the first
        if self._watch is not None and (verdict := self._watch.verdict(_FAILURE_ARRIVES)) is not None:
            os._exit(verdict.exit_code)  # likewise
        until = time.monotonic() + _READING_ENDS
        while self.can_continue is None and time.monotonic() < until:
            time.sleep(0.01)
        continues = self.can_continue is not None and self.can_continue()
        code = STOPPED if continues else 128 + number
        state = "the checkpoint stays as it was: start" if continues else "there is no checkpoint yet: start"
        self._leave_alone(f"stopped by {number.name} before the first step; {state} the same command again", code)

    def _settle(self, error: VggdistError) -> None:
        """Record an error that all ranks share; one that this rank alone has ends its process."""
        self._ending = error.exit_code
        before_start = isinstance(error, BeforeStart)
        if before_start and self.rank > 0:
            time.sleep(_LAUNCHER_ENDS)
        if not (self.size == 1 or error.agreed or before_start and self.rank == 0):
            self._leave_alone(str(error), error.exit_code)
        if self.rank == 0:
            self._record(error.exit_code, str(error))

    def _wait_for_root(self) -> None:
        """A launcher kills the other ranks when the first leaves: rank 0 must have written by then."""
        from vggdist.collectives.world import World

        World().barrier()

    def _fail(self, error: Exception) -> NoReturn:
        verdict = None
        if self._watch is not None and lost_contact(error):
            verdict = self._watch.verdict(patience=3)
        if verdict is not None and verdict.rank != self.rank:
            self._record_verdict(verdict)
            self._leave(f"vggdist: {verdict.text.splitlines()[0]}" if self.rank == 0 else None, verdict.exit_code)
        self._leave_alone(f"{type(error).__name__}: {error}\n{traceback.format_exc()}", 1)

    def _leave_alone(self, message: str, exit_code: int) -> NoReturn:
        """End with an error that the other ranks do not have."""
        self._ending = exit_code
        text = f"rank {self.rank}: {message}"
        self._record(exit_code, text)
        _write(f"vggdist: {text}")
        if self._watch is not None:
            self._watch.report_failure(message, exit_code)
        self._leave(None, exit_code)

    def _record_verdict(self, verdict: Verdict) -> None:
        """Write down another rank's failure: on rank 0, or in its place where it is rank 0 that failed."""
        if self.rank == 0 or verdict.rank == 0:
            self._record(verdict.exit_code, verdict.text)

    def _record(self, exit_code: int, error: str | None, result: Mapping[str, Any] | None = None) -> None:
        ways: list[Callable[[], None]] = [lambda: write_outcome(exit_code, error)]
        if (file := self.result) is not None:
            ways.append(lambda: file.end(exit_code, error, result or {}))
        for write in ways:
            try:
                write()
            except OSError as failure:
                _write(f"vggdist: the result cannot be written: {failure}")

    def _leave(self, message: str | None, exit_code: int) -> NoReturn:
        """End this process without the farewells of Horovod and MXNet, which can wait for ranks that will not answer."""
        if message is not None:
            _write(message)
        sys.stdout.flush()
        os._exit(exit_code)


def _write(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
