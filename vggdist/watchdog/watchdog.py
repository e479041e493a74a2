"""Detects a rank that dies or hangs, reports it on all ranks, and ends the job.

Horovod does not: on Gloo it never notices a main thread that hangs or a process that is stopped, and when a rank is killed
the others get ``Connection closed by peer``, or on MPI nothing. So a thread of each rank sends a heartbeat with the progress
of its main thread to rank 0, once per second. Rank 0 finds the failed rank and reports it to all ranks. Each watchdog then
ends its process, unless the main thread does so itself in time.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from vggdist.processes.signals import hold_aborts
from vggdist.processes.streams import write_error
from vggdist.watchdog.connection import Message
from vggdist.watchdog.heartbeat import HeartbeatMonitor, RankFailure
from vggdist.watchdog.peers import Client, Peers, connect

logger = logging.getLogger(__name__)

# How a failure was detected. The first one counts, but a rank's own report replaces the loss of its connection.
_Cause = Literal["reported", "disconnected", "stalled"]

_FIRST_TIMEOUT_FACTOR = 5.0
"""Multiple of the timeout for the first two phases of a kind, in which graphs are built and files are read."""
_REPORT_DELAY = 0.3
"""Seconds until the watchdog reports a failure itself; mpirun kills all ranks about a second after a rank has died."""
_STALL_DELAY = 0.5
"""Seconds until rank 0 ends a job that hangs: the rank at fault prints its stack before a launcher kills it."""
_AFTER_ROOT = 1.0
"""Seconds by which the other ranks end after rank 0, which writes the result: a launcher kills all when one ends."""
_MAIN_THREAD_GRACE = 10.0
"""Additional seconds for a main thread that knows of the failure and is ending the process itself."""


class Watchdog:
    """One rank's watchdog; its methods are called by the main thread."""

    def __init__(
        self,
        rank: int,
        processes: Sequence[tuple[str, int]],
        peers: Peers,
        timeout: float,
        on_failure: Callable[[RankFailure], None] | None,
        grace: float,
        elastic: bool = False,
    ) -> None:
        """Start the thread. The other arguments are those of :meth:`start`.

        Args:
            processes: host and process id of every rank.
            peers: the connections, which may still be in progress.
        """
        self._rank, self._processes, self._peers = rank, processes, peers
        self._timeout, self._grace, self._on_failure, self._elastic = timeout, grace, on_failure, elastic
        self._monitor = HeartbeatMonitor(processes, range(len(processes)) if rank == 0 else (0, rank), timeout)
        self._interval = min(1.0, timeout / 10)
        self._next_tick = 0.0
        self._late = False
        self._beat = (0, math.inf, "start", 1.0)
        self._kinds: Counter[str] = Counter()
        self._own_reports: deque[RankFailure] = deque()
        self._changed = threading.Condition()
        self._failure: RankFailure | None = None
        self._cause: _Cause = "stalled"
        self._report_at = self._end_at = math.inf
        self._reported = False
        self._main_thread_ends = False
        self._unconfirmed = isinstance(peers, Client)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        rank: int,
        size: int,
        exchange: Callable[[Any], list[Any]],
        timeout: float,
        on_failure: Callable[[RankFailure], None] | None = None,
        grace: float = 2.5,
        elastic: bool = False,
    ) -> Watchdog:
        """Start the watchdog; every rank must call this at the same point.

        Args:
            exchange: collects one JSON-serialisable value of each rank, in the order of ranks (``World.gather``).
            timeout: seconds without a beat, from the first one on, after which a rank counts as hanging. The first two phases
                of a kind may take five times as long. With ``math.inf``, and with a single rank, only deaths are detected.
            on_failure: called once by the watchdog's thread before it ends this process. On rank 0, which may write the result
                there, it is called 0.3 s after the failure; on other ranks then only if rank 0 failed. It is not called if
                the main thread has requested the failure by then and ends the process itself.
            grace: seconds for the main thread to end by itself after another rank was lost or failed.
            elastic: the other ranks continue after a failure: it ends only the process of the failed rank.
        """
        peers, processes = connect(rank, size, exchange)
        return cls(rank, processes, peers, timeout if size > 1 else math.inf, on_failure, grace, elastic)

    def beat(self, phase: str, alone: bool = False) -> None:
        """Record progress of this rank, and its phase (``"step 37"``, of the kind ``"step"``); costs a microsecond.

        The number of beats shows which rank is furthest behind, so all ranks must beat at the same points. More beats, above
        all before each wait for the other ranks, separate a rank that hangs from those that wait for it more reliably.

        Args:
            alone: the other ranks do not reach this point (rank 0 writes a file): resets the timeout, but is not counted.
        """
        was_paused = self._beat[1] == math.inf
        kind = phase.partition(" ")[0]
        self._kinds[kind] += 1
        timeout_factor = _FIRST_TIMEOUT_FACTOR if self._kinds[kind] <= 2 else 1.0
        self._beat = (self._beat[0] + (not alone), time.monotonic(), phase, timeout_factor)
        if was_paused:
            self._arm_backstop()  # the next phase may hold the GIL before the watchdog's thread runs

    def pause(self) -> None:
        """Stop the timeout until the next beat, for work that may take any time. Only deaths are detected, as at the start."""
        self._beat = (self._beat[0], math.inf, "paused", 1.0)

    def report_failure(self, error: str, exit_code: int) -> None:
        """Report to all ranks, through rank 0, that this rank failed and will end; waits at most 1 s for rank 0's answer.

        To be called before anything is torn down, and not for an error that all ranks share.
        """
        self._own_reports.append(RankFailure(self._rank, f"rank {self._rank}: {error}"[:8000], exit_code))
        self._main_thread_ends = True
        self._peers.wake()
        self.failure(1.0)

    def failure(self, timeout: float) -> RankFailure | None:
        """The failure of a rank, after a communication error; waits for it at most ``timeout`` seconds.

        A caller that gets a failure must end the process within about 10 s.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, timeout=timeout)
        if self._failure is not None:
            self._main_thread_ends = True
        return self._failure

    def close(self) -> None:
        """Report that this rank has finished, and stop, within 1 s. Without it the end of this process counts as a death."""
        self._closing = True
        self._peers.wake()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        try:
            while not self._closing:
                self._iterate()
        except Exception:
            write_error(f"vggdist: rank {self._rank} continues without its watchdog, which failed:\n{traceback.format_exc()}")
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._peers.send({"kind": "finished"})
            self._peers.drain(0.5)
            self._peers.close()

    def _iterate(self) -> None:
        """Receive and send messages, look for a stall, and end the process when that is due."""
        started = time.monotonic()
        report_at = math.inf if self._reported or self._main_thread_ends else self._report_at
        wait = max(0.0, min(self._next_tick, report_at, self._end_due) - started)
        for rank, message in self._peers.poll(wait):
            self._receive(rank, message)
        while self._own_reports:
            self._send_own_report(self._own_reports.popleft())
        now = time.monotonic()
        self._late = not self._late and now - started > wait + self._interval
        if self._late:
            return  # this thread could not run: first process the messages that arrived, or a live rank would seem silent
        if now >= self._next_tick:
            self._next_tick = now + self._interval
            self._tick(now)
        if now >= report_at and not self._main_thread_ends:
            self._report()
        if now >= self._end_due:
            self._report()
            assert self._failure is not None
            os._exit(self._failure.exit_code or 1)

    @property
    def _end_due(self) -> float:
        return self._end_at + self._main_thread_ends * _MAIN_THREAD_GRACE

    def _receive(self, rank: int, message: Message | None) -> None:
        now = time.monotonic()
        if message is None:
            if self._monitor.expects(rank):
                self._fail(self._monitor.disconnected(rank, now), "disconnected")
            return
        try:
            if message["kind"] in ("hello", "welcome"):
                self._monitor.receive(rank, 0, 0.0, "start", now)  # its first beat may never come
            elif message["kind"] == "beat":
                phase, factor = str(message["phase"]), float(message["timeout_factor"])
                self._monitor.receive(rank, int(message["count"]), float(message["age"]), phase, now, factor)
            elif message["kind"] == "failed":
                failure = RankFailure(int(message["rank"]), str(message["text"]), int(message["exit_code"]))
                self._fail(failure, message["cause"], tuple(message["behind"]), forward=self._rank == 0)
            elif message["kind"] == "finished":
                self._monitor.finish(rank, now)
                self._peers.disconnect(rank)
        except (KeyError, TypeError, ValueError, OverflowError):
            pass  # not a message of this version

    def _send_own_report(self, failure: RankFailure) -> None:
        if self._peers.ranks and self._rank > 0:
            self._peers.send(_failed(failure, "reported", ()))  # rank 0 answers all ranks with the first failure
        else:
            self._fail(failure, "reported")

    def _tick(self, now: float) -> None:
        count, progressed_at, phase, factor = self._beat
        age = max(0.0, now - progressed_at)  # 0 while paused
        self._monitor.receive(self._rank, count, age, phase, now, factor)
        self._peers.send({"kind": "beat", "count": count, "age": age, "phase": phase[:200], "timeout_factor": factor})
        if self._unconfirmed and not self._peers.connecting:
            self._unconfirmed = False
            if not self._peers.ranks and self._monitor.expects(0):
                host, _ = self._processes[0]
                logger.warning(
                    "no connection to the watchdog of rank 0 on %s (a firewall?); this one monitors only its own rank", host
                )
        if self._failure is not None and not self._elastic or self._end_at < math.inf:
            return
        if self._beat[1] == math.inf:
            faulthandler.cancel_dump_traceback_later()
        if self._beat[1] < math.inf:  # read again: a beat may have armed the backstop since, and its phase may hold the GIL
            self._arm_backstop()
        root_decides = self._rank > 0 and 0 in self._peers.ranks and self._monitor.is_alive(0, now)
        if not root_decides and (stall := self._monitor.find_stall(now)):
            self._fail(stall.failure, "stalled", stall.behind)

    def _fail(self, failure: RankFailure, cause: _Cause, behind: Sequence[int] = (), forward: bool = True) -> None:
        """Store a failure if it is the first, or more specific than the first; send it to the other ranks."""
        first = self._failure
        specific = first is not None and self._cause == "disconnected" and cause == "reported" and first.rank == failure.rank
        own = self._elastic and failure.rank == self._rank and self._end_at == math.inf
        if first is not None and not (specific or own):
            return
        if forward:
            self._peers.send(_failed(failure, cause, behind))
        ends = own or first is None and not self._elastic
        if ends:
            hold_aborts()
        with self._changed:
            self._failure, self._cause = failure, cause
            self._changed.notify_all()
        if ends:
            delay = (_STALL_DELAY if cause == "stalled" else self._grace) + (_AFTER_ROOT if self._rank > 0 else 0)
            self._end_at = time.monotonic() + delay
            reports = self._rank == 0 or failure.rank == 0  # the others would repeat rank 0's message
            self._report_at = time.monotonic() + _REPORT_DELAY if reports else self._end_at
            self._arm(delay + _MAIN_THREAD_GRACE + 5.0)  # in case that writing the result hangs, too (a lost file system)
        if self._rank in behind:
            self._print_stack()

    def _print_stack(self) -> None:
        _, progressed_at, phase, _ = self._beat
        age = max(0.0, time.monotonic() - progressed_at)
        write_error(f"rank {self._rank}: no progress for {age:.0f} s in {phase}; the stack:")
        faulthandler.dump_traceback(file=2)

    def _report(self) -> None:
        """Print, once, why this process will end."""
        if self._reported or self._failure is None:
            return
        self._reported = True
        write_error(f"vggdist: {'' if self._rank == 0 else f'rank {self._rank} ends: '}{self._failure.text}")
        if self._on_failure is not None:
            try:
                self._on_failure(self._failure)
            except BaseException:
                write_error(traceback.format_exc())

    def _arm_backstop(self) -> None:
        """End this process after the timeout even if a thread holds the GIL; the other ranks then report this rank."""
        if math.isfinite(self._timeout):
            self._arm(self._timeout * self._beat[3] + min(self._timeout / 2, 2.0))

    def _arm(self, seconds: float) -> None:
        """Print the stacks and end this process after so many seconds, without Python code; replaces an earlier call."""
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)


def _failed(failure: RankFailure, cause: _Cause, behind: Sequence[int]) -> Message:
    return {"kind": "failed", "cause": cause, "behind": list(behind), **asdict(failure)}
