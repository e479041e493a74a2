"""Which rank holds the others up? Judged from beats and times alone, without sockets, threads or a clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Which rank failed, in words for a person, and the exit code that follows from it."""

    rank: int
    text: str
    exit_code: int


@dataclass(frozen=True)
class Finding:
    """A verdict on a job that stands still, and the ranks whose stacks tell why."""

    verdict: Verdict
    behind: tuple[int, ...]


@dataclass(frozen=True)
class Beat:
    """The newest that is known of a rank; times in seconds of the clock of the rank that keeps the roster."""

    count: int
    """Moves so far of those that every rank makes, so that a smaller number is further behind."""
    moved_at: float
    heard_at: float
    phase: str
    patience: float = 1.0
    """How many times the timeout this move may take."""


class Roster:
    """The ranks that one rank hears (rank 0: all; another rank: itself and rank 0)."""

    def __init__(self, places: Sequence[tuple[str, int]], expected: Sequence[int], timeout: float) -> None:
        """An empty roster.

        Args:
            places: host and process id of every rank.
            expected: the ranks that should be heard.
            timeout: seconds without a move after which a rank hangs.
        """
        self._places = places
        self._expected = set(expected)
        self._timeout = timeout
        self._beats: dict[int, Beat] = {}
        self._left_at = -math.inf

    def hear(self, rank: int, count: int, age: float, phase: str, now: float, patience: float = 1.0) -> None:
        """Take in a rank's newest beat, which is ``age`` seconds old; a rank that has left is not heard again."""
        if rank in self._expected:
            self._beats[rank] = Beat(count, now - max(0.0, age), now, phase, patience)

    def leave(self, rank: int, now: float) -> None:
        """A rank has come to its orderly end: from now on nobody waits for it, though some may have until now."""
        self._left_at = now
        self._expected.discard(rank)
        self._beats.pop(rank, None)

    def expects(self, rank: int) -> bool:
        """Whether the rank has not left."""
        return rank in self._expected

    def audible(self, rank: int, now: float) -> bool:
        """Whether the rank gave a sign of life lately: its process runs, whatever its main thread does."""
        return rank in self._beats and now - self._beats[rank].heard_at <= self._timeout / 2

    def gone(self, rank: int, now: float) -> Verdict:
        """The verdict on a rank whose connection ended without a goodbye."""
        if rank in self._beats and not self.audible(rank, now):
            silence = now - self._beats[rank].heard_at
            return Verdict(rank, f"{self._name(rank)} is gone, after {silence:.0f} s without a sign of life", 1)
        return Verdict(rank, f"{self._name(rank)} is gone: it was killed, or its machine failed", 1)

    def judge(self, now: float) -> Finding | None:
        """Find the culprit when the job stands still.

        It stands still when none of the ranks furthest behind has moved, and none has left, within the timeout (or the longer
        time that its move may take): as long as one of them moves, the others wait for it and do not hang. A rank that gives
        no sign of life is then the culprit (it may be stopped, or its host or network is gone), else the one that is furthest
        behind, of several the one that moved least recently.
        """
        audible = {rank: beat for rank, beat in self._beats.items() if self.audible(rank, now)}
        if not audible:
            return None
        fewest = min(beat.count for beat in audible.values())
        behind = {rank: beat for rank, beat in audible.items() if beat.count == fewest}
        if now - max(self._left_at, *(beat.moved_at for beat in behind.values())) <= self._timeout:
            return None
        overdue = all(now - beat.moved_at > beat.patience * self._timeout for beat in behind.values())
        if silent := {rank: beat for rank, beat in self._beats.items() if rank not in audible}:
            culprit = min(silent, key=lambda rank: silent[rank].heard_at)
            silence = now - silent[culprit].heard_at
            if overdue or silence > self._timeout:
                told = f"has given no sign of life for {silence:.0f} s; its last was: {silent[culprit].phase}"
                return self._finding(culprit, told, [culprit])
        if not overdue:
            return None
        culprit = min(behind, key=lambda rank: behind[rank].moved_at)
        told = f"has not moved for {now - behind[culprit].moved_at:.0f} s: {behind[culprit].phase}"
        return self._finding(culprit, told, sorted(behind))

    def _finding(self, culprit: int, told: str, behind: Sequence[int]) -> Finding:
        text = f"{self._name(culprit)} {told} (--run.timeout is {self._timeout:g} s)"
        if unheard := sorted(self._expected - self._beats.keys()):
            text += f" (not heard: rank {', '.join(map(str, unheard))})"
        return Finding(Verdict(culprit, text, 1), tuple(behind))

    def _name(self, rank: int) -> str:
        host, process = self._places[rank]
        return f"rank {rank} ({host}, pid {process})"
