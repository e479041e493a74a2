"""Finds the rank that stalls a job from heartbeats and times alone, without sockets, threads or a clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RankFailure:
    """The rank that failed, the message for the user, and the exit code of the job."""

    rank: int
    text: str
    exit_code: int


@dataclass(frozen=True)
class Stall:
    """The failure of a job that makes no progress, and the ranks whose stacks show the cause."""

    failure: RankFailure
    behind: tuple[int, ...]


@dataclass(frozen=True)
class Heartbeat:
    """Newest known state of a rank; times in seconds of the monitoring rank's clock."""

    count: int
    """Number of progress reports that every rank makes; the rank with the smallest number is furthest behind."""
    progressed_at: float
    received_at: float
    phase: str
    timeout_factor: float = 1.0
    """The timeout of this phase, as a multiple of the usual one."""


class HeartbeatMonitor:
    """The heartbeats that one rank receives (rank 0: of all ranks; another rank: its own and rank 0's)."""

    def __init__(self, processes: Sequence[tuple[str, int]], expected: Sequence[int], timeout: float) -> None:
        """Start without heartbeats.

        Args:
            processes: host and process id of every rank.
            expected: the ranks that send heartbeats.
            timeout: seconds without progress after which a rank counts as hanging.
        """
        self._processes = processes
        self._expected = set(expected)
        self._timeout = timeout
        self._heartbeats: dict[int, Heartbeat] = {}
        self._last_exit_at = -math.inf

    def receive(self, rank: int, count: int, age: float, phase: str, now: float, timeout_factor: float = 1.0) -> None:
        """Store a rank's heartbeat, whose last progress was ``age`` seconds ago. Ignored for a rank that has finished."""
        if rank in self._expected:
            self._heartbeats[rank] = Heartbeat(count, now - max(0.0, age), now, phase, timeout_factor)

    def finish(self, rank: int, now: float) -> None:
        """Remove a rank that has finished: no rank waits for it any more, but some may have waited until now."""
        self._last_exit_at = now
        self._expected.discard(rank)
        self._heartbeats.pop(rank, None)

    def expects(self, rank: int) -> bool:
        """Whether the rank has not finished."""
        return rank in self._expected

    def is_alive(self, rank: int, now: float) -> bool:
        """Whether a recent heartbeat shows that the rank's process runs, whatever its main thread does."""
        return rank in self._heartbeats and now - self._heartbeats[rank].received_at <= self._timeout / 2

    def disconnected(self, rank: int, now: float) -> RankFailure:
        """The failure of a rank whose connection ended before it finished."""
        if rank in self._heartbeats and not self.is_alive(rank, now):
            silence = now - self._heartbeats[rank].received_at
            return RankFailure(rank, f"{self._name(rank)} is lost, after {silence:.0f} s without a heartbeat", 1)
        return RankFailure(rank, f"{self._name(rank)} is lost: its process was killed, or its host failed", 1)

    def find_stall(self, now: float) -> Stall | None:
        """The failed rank if the job makes no progress; else None.

        The job makes no progress if none of the ranks furthest behind has progressed, and no rank has finished, within the
        timeout (or the longer timeout of the phase): as long as one of them progresses, the others wait for it and do not
        hang. Then a rank without heartbeats has failed (it may be stopped, or its host or network is down). Without one, it
        is the rank that is furthest behind; of several, the one whose last progress is oldest.
        """
        alive = {rank: beat for rank, beat in self._heartbeats.items() if self.is_alive(rank, now)}
        if not alive:
            return None
        fewest = min(beat.count for beat in alive.values())
        behind = {rank: beat for rank, beat in alive.items() if beat.count == fewest}
        if now - max(self._last_exit_at, *(beat.progressed_at for beat in behind.values())) <= self._timeout:
            return None
        overdue = all(now - beat.progressed_at > beat.timeout_factor * self._timeout for beat in behind.values())
        if silent := {rank: beat for rank, beat in self._heartbeats.items() if rank not in alive}:
            failed = min(silent, key=lambda rank: silent[rank].received_at)
            silence = now - silent[failed].received_at
            if overdue or silence > self._timeout:
                problem = f"has sent no heartbeat for {silence:.0f} s; its last phase: {silent[failed].phase}"
                return self._stall(failed, problem, [failed])
        if not overdue:
            return None
        failed = min(behind, key=lambda rank: behind[rank].progressed_at)
        problem = f"has made no progress for {now - behind[failed].progressed_at:.0f} s in {behind[failed].phase}"
        return self._stall(failed, problem, sorted(behind))

    def _stall(self, failed: int, problem: str, behind: Sequence[int]) -> Stall:
        text = f"{self._name(failed)} {problem} (--run.timeout is {self._timeout:g} s)"
        if missing := sorted(self._expected - self._heartbeats.keys()):
            text += f" (no heartbeat yet: rank {', '.join(map(str, missing))})"
        return Stall(RankFailure(failed, text, 1), tuple(behind))

    def _name(self, rank: int) -> str:
        host, process = self._processes[rank]
        return f"rank {rank} ({host}, pid {process})"
