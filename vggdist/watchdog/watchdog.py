"""Every rank watches that all ranks live and move, so that one that dies or hangs is named and ends the job everywhere.

Horovod alone does not: on Gloo it never notices a main thread that hangs or a process that is stopped, and where a rank was
killed the others see ``Connection closed by peer``, or on MPI nothing. So a thread of each rank tells rank 0's each second how
far its main thread has come. Rank 0 judges and tells all ranks the verdict; each watch then ends its process, unless the main
thread does so itself in time.
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

from vggdist.processes.streams import say
from vggdist.watchdog.connection import Message
from vggdist.watchdog.heartbeat import Roster, Verdict
from vggdist.watchdog.peers import Client, Peers, connect

logger = logging.getLogger(__name__)

# How a failure is known; the first one counts, but what a rank told of itself says more than that it is gone.
_How = Literal["told", "gone", "stuck"]

_FIRST_PATIENCE = 5.0
"""How many times the timeout a kind of phase may take the first two times: graphs are built, and files read, only then."""
_MAIN_SPEAKS = 0.3
"""Seconds until the watch announces a failure itself; mpirun leaves about a second between a death and killing all."""
_STUCK_DELAY = 0.5
"""Seconds until rank 0 ends a job that hangs: the rank that holds it up prints its stack before a launcher kills it."""
_BEHIND_ROOT = 1.0
"""Seconds that the other ranks stay longer than rank 0, which writes the record: a launcher kills all when one ends."""
_MAIN_ENDS = 10.0
"""Seconds more for a main thread that knows of the failure and is ending the process itself."""


class Watchdog:
    """One rank's part of the watch; its methods are called by the main thread."""

    def __init__(
        self,
        rank: int,
        places: Sequence[tuple[str, int]],
        peers: Peers,
        timeout: float,
        on_failure: Callable[[Verdict], None] | None,
        grace: float,
        elastic: bool = False,
    ) -> None:
        """Start the thread. See :meth:`start` for what is not told here.

        Args:
            places: host and process id of every rank.
            peers: the connections, made or being made.
        """
        self._rank, self._places, self._peers = rank, places, peers
        self._timeout, self._grace, self._on_failure, self._elastic = timeout, grace, on_failure, elastic
        self._roster = Roster(places, range(len(places)) if rank == 0 else (0, rank), timeout)
        self._interval = min(1.0, timeout / 10)
        self._next_tick = 0.0
        self._late = False
        self._beat = (0, math.inf, "start", 1.0)
        self._kinds: Counter[str] = Counter()
        self._told: deque[Verdict] = deque()
        self._news = threading.Condition()
        self._verdict: Verdict | None = None
        self._how: _How = "stuck"
        self._announce_at = self._end_at = math.inf
        self._announced = False
        self._main_ends = False
        self._unconfirmed = isinstance(peers, Client)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        rank: int,
        size: int,
        exchange: Callable[[Any], list[Any]],
        timeout: float,
        on_failure: Callable[[Verdict], None] | None = None,
        grace: float = 2.5,
        elastic: bool = False,
    ) -> Watchdog:
        """Start watching; every rank must call this at the same place.

        Args:
            exchange: collects one JSON-serialisable value of each rank, in the order of ranks (``World.gather``).
            timeout: seconds without a beat, from the first one on, after which a rank hangs; longer than anything between
                two beats, but for the first two of a kind of phase, which may take five times as long. ``math.inf`` watches
                for deaths alone, and so does one rank, for which nobody waits.
            on_failure: called once by the watch's thread before it ends this process; on rank 0, which may write the record
                there, 0.3 s after the failure (elsewhere too when rank 0 is what failed). Not called where the main thread
                has asked for the verdict by then and ends the process itself.
            grace: seconds that the main thread has to end by itself when another rank is gone or failed.
            elastic: the others go on when a rank fails: a verdict ends only the process that it names.
        """
        peers, places = connect(rank, size, exchange)
        return cls(rank, places, peers, timeout if size > 1 else math.inf, on_failure, grace, elastic)

    def beat(self, phase: str, alone: bool = False) -> None:
        """Note that this rank moves, and into which phase (``"step 37"``, of the kind ``"step"``); costs a microsecond.

        The number of beats tells which rank is furthest behind, so every rank must beat at the same places. The more there
        are, above all before each wait for the others, the surer a rank that hangs is told from those that wait for it.

        Args:
            alone: the other ranks do not make this move (rank 0 writes a file): it is a sign of life that does not count.
        """
        rested = self._beat[1] == math.inf
        kind = phase.partition(" ")[0]
        self._kinds[kind] += 1
        patience = _FIRST_PATIENCE if self._kinds[kind] <= 2 else 1.0
        self._beat = (self._beat[0] + (not alone), time.monotonic(), phase, patience)
        if rested:
            self._arm_backstop()  # what comes next may keep Python's lock, before this rank's thread has had its turn

    def rest(self) -> None:
        """Stop the timer until the next beat: what follows may take any time. As at the start, only deaths are noticed."""
        self._beat = (self._beat[0], math.inf, "rest", 1.0)

    def report_failure(self, error: str, exit_code: int) -> None:
        """Tell all ranks, by way of rank 0, that this rank fails and is about to end; waits at most 1 s until rank 0 has it.

        To be called before anything is torn down, and not for an error that all ranks agree on.
        """
        self._told.append(Verdict(self._rank, f"rank {self._rank}: {error}"[:8000], exit_code))
        self._main_ends = True
        self._peers.wake()
        self.verdict(1.0)

    def verdict(self, patience: float) -> Verdict | None:
        """Ask who failed, after an error of communication; waits at most ``patience`` seconds for news.

        The caller that gets a verdict is expected to end the process within about 10 s.
        """
        with self._news:
            self._news.wait_for(lambda: self._verdict is not None, timeout=patience)
        if self._verdict is not None:
            self._main_ends = True
        return self._verdict

    def close(self) -> None:
        """Say goodbye and stop watching, within 1 s. Without it the end of this process counts as a death."""
        self._closing = True
        self._peers.wake()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception:
            say(f"vggdist: rank {self._rank} goes on without its watch, which failed:\n{traceback.format_exc()}")
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._peers.send({"kind": "bye"})
            self._peers.drain(0.5)
            self._peers.close()

    def _turn(self) -> None:
        """Hear, tell, judge, and end the process when that is due."""
        started = time.monotonic()
        announce_at = math.inf if self._announced or self._main_ends else self._announce_at
        wait = max(0.0, min(self._next_tick, announce_at, self._end_due) - started)
        for rank, message in self._peers.poll(wait):
            self._take(rank, message)
        while self._told:
            self._take_told(self._told.popleft())
        now = time.monotonic()
        self._late = not self._late and now - started > wait + self._interval
        if self._late:
            return  # this thread was kept from running: first hear what came meanwhile, lest a rank seem silent
        if now >= self._next_tick:
            self._next_tick = now + self._interval
            self._tick(now)
        if now >= announce_at and not self._main_ends:
            self._announce()
        if now >= self._end_due:
            self._announce()
            assert self._verdict is not None
            os._exit(self._verdict.exit_code or 1)

    @property
    def _end_due(self) -> float:
        return self._end_at + self._main_ends * _MAIN_ENDS

    def _take(self, rank: int, message: Message | None) -> None:
        now = time.monotonic()
        if message is None:
            if self._roster.expects(rank):
                self._fail(self._roster.gone(rank, now), "gone")
            return
        try:
            if message["kind"] in ("hello", "welcome"):
                self._roster.hear(rank, 0, 0.0, "start", now)  # its first beat may never come
            elif message["kind"] == "beat":
                phase, patience = str(message["phase"]), float(message["patience"])
                self._roster.hear(rank, int(message["count"]), float(message["age"]), phase, now, patience)
            elif message["kind"] == "failed":
                verdict = Verdict(int(message["rank"]), str(message["text"]), int(message["exit_code"]))
                self._fail(verdict, message["how"], tuple(message["behind"]), tell=self._rank == 0)
            elif message["kind"] == "bye":
                self._roster.leave(rank, now)
                self._peers.disconnect(rank)
        except (KeyError, TypeError, ValueError, OverflowError):
            pass  # no rank of this version says this

    def _take_told(self, verdict: Verdict) -> None:
        if self._peers.ranks and self._rank > 0:
            self._peers.send(_failed(verdict, "told", ()))  # rank 0 answers all with what failed first
        else:
            self._fail(verdict, "told")

    def _tick(self, now: float) -> None:
        count, moved_at, phase, patience = self._beat
        age = max(0.0, now - moved_at)  # at rest it counts as moving
        self._roster.hear(self._rank, count, age, phase, now, patience)
        self._peers.send({"kind": "beat", "count": count, "age": age, "phase": phase[:200], "patience": patience})
        if self._unconfirmed and not self._peers.greeting:
            self._unconfirmed = False
            if not self._peers.ranks and self._roster.expects(0):
                host, _ = self._places[0]
                logger.warning("no connection to the watch of rank 0 on %s (a firewall?); this rank watches only itself", host)
        if self._verdict is not None and not self._elastic or self._end_at < math.inf:
            return
        if self._beat[1] == math.inf:
            faulthandler.cancel_dump_traceback_later()
        if self._beat[1] < math.inf:  # read anew: a beat may have armed it since, and what follows keep Python's lock
            self._arm_backstop()
        root_judges = self._rank > 0 and 0 in self._peers.ranks and self._roster.audible(0, now)
        if not root_judges and (finding := self._roster.judge(now)):
            self._fail(finding.verdict, "stuck", finding.behind)

    def _fail(self, verdict: Verdict, how: _How, behind: Sequence[int] = (), tell: bool = True) -> None:
        """Keep a verdict if it is the first, or says more than the first; tell the other ranks."""
        former = self._verdict
        more = former is not None and self._how == "gone" and how == "told" and former.rank == verdict.rank
        own = self._elastic and verdict.rank == self._rank and self._end_at == math.inf
        if former is not None and not (more or own):
            return
        if tell:
            self._peers.send(_failed(verdict, how, behind))
        with self._news:
            self._verdict, self._how = verdict, how
            self._news.notify_all()
        if own or former is None and not self._elastic:
            delay = (_STUCK_DELAY if how == "stuck" else self._grace) + (_BEHIND_ROOT if self._rank > 0 else 0)
            self._end_at = time.monotonic() + delay
            speaks = self._rank == 0 or verdict.rank == 0  # the others would all repeat what rank 0 says
            self._announce_at = time.monotonic() + _MAIN_SPEAKS if speaks else self._end_at
            self._arm(delay + _MAIN_ENDS + 5.0)  # should the record hang as well (a file system that is gone)
        if self._rank in behind:
            self._print_stack()

    def _print_stack(self) -> None:
        _, moved_at, phase, _ = self._beat
        say(f"rank {self._rank}: no progress for {max(0.0, time.monotonic() - moved_at):.0f} s in {phase}; the stack:")
        faulthandler.dump_traceback(file=2)

    def _announce(self) -> None:
        """Say, once, what this process will end of."""
        if self._announced or self._verdict is None:
            return
        self._announced = True
        say(f"vggdist: {'' if self._rank == 0 else f'rank {self._rank} ends: '}{self._verdict.text}")
        if self._on_failure is not None:
            try:
                self._on_failure(self._verdict)
            except BaseException:
                say(traceback.format_exc())

    def _arm_backstop(self) -> None:
        """Should a thread keep Python's lock, this rank's own cannot run; the others then name it after the timeout."""
        if math.isfinite(self._timeout):
            self._arm(self._timeout * self._beat[3] + min(self._timeout / 2, 2.0))

    def _arm(self, seconds: float) -> None:
        """End this process with its stacks after so many seconds, though no Python code may run; replaces what was armed."""
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)


def _failed(verdict: Verdict, how: _How, behind: Sequence[int]) -> Message:
    return {"kind": "failed", "how": how, "behind": list(behind), **asdict(verdict)}
