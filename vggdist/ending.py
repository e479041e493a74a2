"""How a command ends: one message, ``result.json``, the exit code, and no rank left behind."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vggdist.config.errors import Dismissed, Unconnected, VggdistError
from vggdist.reporting.result import write_result
from vggdist.world import slurm
from vggdist.world.contact import lost_contact
from vggdist.world.topology import from_environment
from vggdist.world.watch import Verdict, Watch

if TYPE_CHECKING:
    from vggdist.world.process import World

_UNCONNECTED_PATIENCE = 10.0
"""Seconds that ranks which cannot know of each other leave rank 0 to tell it; the launcher ends them when it has."""


class Ending:
    """Turns the outcome of a command into an exit code.

    An error that all ranks agree on is told by rank 0 alone; the others leave after it. Any other error is told by the rank
    that has it, and this process ends at once, so that the launcher ends the rest. A rank that only lost contact with the
    one that failed says nothing, or what the watch knows of that one.
    """

    def __init__(self, directory: Path, file: str = "result.json") -> None:
        """Name the file, ``directory / file``, that tells the outcome where a launcher hides the exit code."""
        self._path = directory / file
        topology = from_environment(os.environ)
        self._rank, self._alone = topology.rank, topology.size == 1
        self._watch: Watch | None = None

    def watch(self, world: World, timeout: float, elastic: bool = False) -> Watch:
        """Begin to watch that all ranks live and move; ends with the command, or with the next call.

        Args:
            timeout: seconds.
            elastic: see :meth:`Watch.start`.
        """
        self._rank, self._alone = world.rank, world.size == 1
        self.close_watch()
        self._watch = Watch.start(
            world.rank, world.size, world.gather, timeout, on_failure=self._record_verdict, elastic=elastic
        )
        return self._watch

    def close_watch(self) -> str | None:
        """Watch no more; tells which rank has failed, if one has."""
        if self._watch is None:
            return None
        verdict = self._watch.verdict(patience=0)
        self._watch.close()
        self._watch = None
        return verdict.text if verdict is not None else None

    def of(self, command: Callable[[], dict[str, Any]]) -> int:
        """Run a command; returns the exit code, or ends the process."""
        try:
            result = command()
        except Dismissed as error:
            self._leave(f"vggdist: {error}", error.exit_code)
        except VggdistError as error:
            return self._end_with(error)
        except KeyboardInterrupt:
            self._leave_alone("interrupted", 1)
        except Exception as error:
            self._fail(error)
        if self._rank == 0:
            self._record(0, None, result)
        self.close_watch()
        return 0

    def _end_with(self, error: VggdistError) -> int:
        if not error.agreed and not self._alone:
            self._leave_alone(str(error), error.exit_code)
        if self._rank == 0:
            self._record(error.exit_code, str(error))
            print(f"vggdist: {error}", file=sys.stderr, flush=True)
        if not self._alone:
            self._wait_for_root(error)
        self.close_watch()
        return error.exit_code

    def _wait_for_root(self, error: VggdistError) -> None:
        """A launcher kills the other ranks when the first leaves: rank 0 must have written by then."""
        if not isinstance(error, Unconnected):
            from vggdist.world.process import World

            World().barrier()
        elif self._rank > 0:
            time.sleep(_UNCONNECTED_PATIENCE)

    def _fail(self, error: Exception) -> NoReturn:
        verdict = None
        if self._watch is not None and lost_contact(error):
            verdict = self._watch.verdict(patience=3)
        if verdict is not None and verdict.rank != self._rank:
            self._record_verdict(verdict)
            self._leave(f"vggdist: {verdict.text.splitlines()[0]}" if self._rank == 0 else None, verdict.exit_code)
        self._leave_alone(f"{type(error).__name__}: {error}\n{traceback.format_exc()}", 1)

    def _leave_alone(self, message: str, exit_code: int) -> NoReturn:
        """End with an error that the other ranks do not have."""
        told = f"rank {self._rank}: {message}"
        self._record(exit_code, told)
        print(f"vggdist: {told}", file=sys.stderr, flush=True)
        if self._watch is not None:
            self._watch.tell(message, exit_code)
        self._leave(None, exit_code)

    def _record_verdict(self, verdict: Verdict) -> None:
        """Write down another rank's failure: on rank 0, or in its place where it is rank 0 that failed."""
        if self._rank == 0 or verdict.rank == 0:
            self._record(verdict.exit_code, verdict.text)

    def _record(self, exit_code: int, error: str | None, result: dict[str, Any] | None = None) -> None:
        job = {"slurm": told} if (told := slurm.job(os.environ)) else {}
        try:
            write_result(self._path.parent, {"exit_code": exit_code, "error": error, **(result or {}), **job}, self._path.name)
        except OSError as failure:
            print(f"vggdist: cannot write {self._path}: {failure}", file=sys.stderr, flush=True)

    def _leave(self, message: str | None, exit_code: int) -> NoReturn:
        """End this process without the farewells of Horovod and MXNet, which can wait for ranks that will not answer."""
        if message is not None:
            print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(exit_code)
