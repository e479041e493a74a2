"""Ends a command on all ranks: one message, the exit code, and the result file."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from vggdist.collectives.lost_contact import lost_contact
from vggdist.config.errors import BeforeStart, Dismissed, RequestError, VggdistError
from vggdist.launcher.topology import Topology, from_environment
from vggdist.processes import streams
from vggdist.reporting.result import ResultFile, write_outcome
from vggdist.watchdog.heartbeat import RankFailure
from vggdist.watchdog.watchdog import Watchdog

if TYPE_CHECKING:
    from vggdist.collectives.world import World

_Result = TypeVar("_Result", bound=Mapping[str, Any])

STOPPED = 75
_LAUNCHER_TIMEOUT = 30.0
"""Seconds that other ranks wait with an error from before the start: if rank 0 has the same one, it reports it and exits, and
the launcher ends them. A rank that still runs then is the only one with the error."""
_FAILURE_TIMEOUT = 0.3
"""Seconds to wait for the failure of another rank, because of which the launcher ends this one."""
_CONFIG_TIMEOUT = 5.0
"""Seconds to wait until the configuration is read, which takes less than one."""


class ExitHandler:
    """Turns the outcome of a command into an exit code.

    An error that all ranks share is reported by rank 0 only; the others exit after it. Any other error is reported by the
    rank that has it, whose process exits at once, so that the launcher ends the others. A rank that only lost contact with
    the failed rank reports nothing, or the failure that its watchdog knows.

    Attributes:
        result: the result file, once the command has one. A request that is rejected before changes no file.
        can_continue: whether the same command would continue from a checkpoint, for the exit code after a signal before the
            first step; None until the configuration is read.
        release: called after a command within a larger program, to free what the end of a process would free.
    """

    def __init__(self) -> None:
        """Read rank and size from the launcher's environment, and protect the output streams."""
        streams.protect()
        try:
            topology = from_environment(os.environ)
        except RequestError:
            topology = Topology()  # every command reads it again, and is ended with the error
        self.rank, self.size = topology.rank, topology.size
        self.result: ResultFile | None = None
        self.can_continue: Callable[[], bool] | None = None
        self.release: Callable[[], None] = lambda: None
        self._watchdog: Watchdog | None = None
        self._exit_code: int | None = None

    def watch(self, world: World, timeout: float, elastic: bool = False) -> Watchdog:
        """Start the watchdog; it ends with the command, or with the next call.

        Args:
            timeout: seconds.
            elastic: see :meth:`Watchdog.start`.
        """
        self.rank, self.size = world.rank, world.size
        self.close_watchdog()
        self._watchdog = Watchdog.start(
            world.rank, world.size, world.gather, timeout, on_failure=self._record_failure, elastic=elastic
        )
        return self._watchdog

    def close_watchdog(self) -> str | None:
        """Stop the watchdog; returns the message of a rank's failure, if there was one."""
        if self._watchdog is None:
            return None
        failure = self._watchdog.failure(timeout=0)
        self._watchdog.close()
        self._watchdog = None
        return failure.text if failure is not None else None

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
            self._exit_with_own_error("interrupted", 1)
        except Exception as error:
            self._fail(error)
        finally:
            self.close_watchdog()
        return 0

    def call(self, command: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a command within a larger program; returns its result.

        Raises:
            VggdistError: an error that all ranks share, or of a single rank.
            Exception: any other error of a single rank. One of several ranks with an error of its own reports it and exits,
                as in :meth:`run`, so that the launcher ends the others.
        """
        try:
            return self._carry_out(command, ends_process=False)
        except VggdistError:
            raise
        except Exception as error:
            if self.size == 1:
                self._record(1, f"rank 0: {type(error).__name__}: {error}")
                raise
            self._fail(error)
        finally:
            self.close_watchdog()
            self.release()

    def _carry_out(self, command: Callable[[], _Result], ends_process: bool = True) -> _Result:
        """Run a command and record its outcome; raises the errors that all ranks share.

        Args:
            ends_process: False for a command within a larger program, which then raises an error from before the ranks are
                connected instead of ending the process.
        """
        try:
            result = command()
        except Dismissed as error:
            self._exit(f"vggdist: {error}", error.exit_code)
        except VggdistError as error:
            if ends_process or not isinstance(error, BeforeStart):
                self._record_error(error)
            raise
        if self.rank == 0:
            self._record(0, None, result)
        return result

    def stop_before_first_step(self, number: signal.Signals) -> NoReturn:
        """End this process after a signal before the first step; may be called from any thread.

        The exit code is 75 if the same command continues from a checkpoint, else 128 plus the number of the signal.
        """
        if self._exit_code is not None:
            os._exit(self._exit_code)  # the launcher ends the remaining ranks after the first one has exited
        if self._watchdog is not None and (failure := self._watchdog.failure(_FAILURE_TIMEOUT)) is not None:
            os._exit(failure.exit_code)  # likewise
        deadline = time.monotonic() + _CONFIG_TIMEOUT
        while self.can_continue is None and time.monotonic() < deadline:
            time.sleep(0.01)
        continues = self.can_continue is not None and self.can_continue()
        code = STOPPED if continues else 128 + number
        state = "the checkpoint is unchanged: start" if continues else "there is no checkpoint yet: start"
        self._exit_with_own_error(f"stopped by {number.name} before the first step; {state} the same command again", code)

    def _record_error(self, error: VggdistError) -> None:
        """Record an error that all ranks share; if only this rank has it, end the process."""
        self._exit_code = error.exit_code
        before_start = isinstance(error, BeforeStart)
        if before_start and self.rank > 0:
            time.sleep(_LAUNCHER_TIMEOUT)
        if not (self.size == 1 or error.agreed or before_start and self.rank == 0):
            self._exit_with_own_error(str(error), error.exit_code)
        if self.rank == 0:
            self._record(error.exit_code, str(error))

    def _wait_for_root(self) -> None:
        """Wait until rank 0 has written the result: a launcher kills the other ranks when the first one exits."""
        from vggdist.collectives.world import World

        World().barrier()

    def _fail(self, error: Exception) -> NoReturn:
        failure = None
        if self._watchdog is not None and lost_contact(error):
            failure = self._watchdog.failure(timeout=3)
        if failure is not None and failure.rank != self.rank:
            self._record_failure(failure)
            self._exit(f"vggdist: {failure.text.splitlines()[0]}" if self.rank == 0 else None, failure.exit_code)
        self._exit_with_own_error(f"{type(error).__name__}: {error}\n{traceback.format_exc()}", 1)

    def _exit_with_own_error(self, message: str, exit_code: int) -> NoReturn:
        """Report an error that the other ranks do not have, and exit."""
        self._exit_code = exit_code
        text = f"rank {self.rank}: {message}"
        self._record(exit_code, text)
        _write(f"vggdist: {text}")
        if self._watchdog is not None:
            self._watchdog.report_failure(message, exit_code)
        self._exit(None, exit_code)

    def _record_failure(self, failure: RankFailure) -> None:
        """Record another rank's failure: on rank 0, or on the other ranks if rank 0 failed."""
        if self.rank == 0 or failure.rank == 0:
            self._record(failure.exit_code, failure.text)

    def _record(self, exit_code: int, error: str | None, result: Mapping[str, Any] | None = None) -> None:
        writers: list[Callable[[], None]] = [lambda: write_outcome(exit_code, error)]
        if (file := self.result) is not None:
            writers.append(lambda: file.end(exit_code, error, result or {}))
        for write in writers:
            try:
                write()
            except OSError as failure:
                _write(f"vggdist: the result cannot be written: {failure}")

    def _exit(self, message: str | None, exit_code: int) -> NoReturn:
        """Exit without the shutdown of Horovod and MXNet, which can wait for ranks that do not answer."""
        if message is not None:
            _write(message)
        sys.stdout.flush()
        os._exit(exit_code)


def _write(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
