"""The ranks meet in ``hvd.init()``: who is missing when they do not.

Horovod waits there without a word: on Gloo until its timeout, and then it aborts the process; on MPI for ever. On Gloo each
rank notes at the launcher's rendezvous server that it is there, again and again until all have met. So a rank that waited in
vain can name those that never came, and those that no longer move. MPI has no such place: there each rank says that it waits.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, count, repeat

from vggdist.collectives.terminate import completes
from vggdist.config.errors import RunError
from vggdist.launcher.topology import from_environment
from vggdist.processes.streams import say

_SCOPE = "vggdist.meeting"
_ANSWER = 3.0
"""Seconds in which the server must answer."""
_INTERVAL = 1.0
"""Seconds between two notes of a rank."""
_BEHIND_FIRST = 5.0
"""Seconds that the other ranks leave the first one to report; a launcher ends them when it has."""
_REMINDER = 30.0
"""Seconds after which a rank says for the first time that it waits, where nobody knows who is missing."""


@dataclass(frozen=True)
class StartStatus:
    """What a rank says of itself.

    Attributes:
        count: notes so far that it has come; 0 while it is starting.
    """

    host: str
    pid: int
    count: int


class RendezvousStore:
    """The ranks' notes at the rendezvous server of horovodrun, or of ``vggdist rendezvous``."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> RendezvousStore | None:
        """The one that the environment names; None where there is none, and in an elastic job, where ranks change."""
        address, port = (environment.get(f"HOROVOD_GLOO_RENDEZVOUS_{name}", "") for name in ("ADDR", "PORT"))
        if not address or not port.isdecimal() or "HOROVOD_ELASTIC" in environment:
            return None
        return cls(address, int(port))

    def write(self, rank: int, note: StartStatus) -> None:
        """Leave a rank's note, if the server answers."""
        self._request("PUT", rank, json.dumps(asdict(note)).encode())

    def read(self, rank: int) -> StartStatus | None:
        """A rank's newest note, if there is one."""
        try:
            found = json.loads(self._request("GET", rank) or b"null")
            return StartStatus(str(found["host"])[:255], int(found["pid"]), int(found["count"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def _request(self, method: str, rank: int, body: bytes | None = None) -> bytes | None:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=_ANSWER)
        try:
            connection.request(method, f"/{_SCOPE}/{rank}", body)
            answer = connection.getresponse()
            return answer.read(2**16) if answer.status == http.client.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def announce(environment: Mapping[str, str] = os.environ) -> None:
    """StartStatus that this rank's process is there; to be called early, before the imports in which it may hang."""
    place = from_environment(environment)
    if place.size > 1 and (board := RendezvousStore.of(environment)):
        board.write(place.rank, _note(0))


def initialize(init: Callable[[], object], environment: Mapping[str, str] = os.environ) -> None:
    """Call ``hvd.init()``.

    Raises:
        RunError: when the ranks did not meet in Horovod's time, naming those that are missing, as far as that is known. The
            process must then be left by ``os._exit``.
    """
    place, board = from_environment(environment), RendezvousStore.of(environment)
    if place.size == 1 or "HOROVOD_ELASTIC" in environment:
        init()
    elif board is None:
        with _repeating(lambda number, waited: _remind(place.rank, waited), (_REMINDER * 2**n for n in count())):
            init()
    else:
        with _repeating(lambda number, waited: board.write(place.rank, _note(number)), chain([0.0], repeat(_INTERVAL))):
            if not completes(init):
                patience = environment.get("HOROVOD_GLOO_TIMEOUT_SECONDS", "30")
                missing = _missing(board, place.rank, place.size)
                raise RunError(f"the ranks did not meet within HOROVOD_GLOO_TIMEOUT_SECONDS, {patience} s: {missing}")


def _missing(board: RendezvousStore, rank: int, size: int) -> str:
    """Who has not come, or no longer moves, by two looks at the board."""
    before = {other: board.read(other) for other in range(size)}
    time.sleep(3 * _INTERVAL)
    now = {other: board.read(other) for other in range(size)}
    here = [other for other, note in now.items() if other == rank or note is not None and note != before[other]]
    if rank != here[0]:
        time.sleep(_BEHIND_FIRST)
    gone = [_absence(other, note) for other, note in now.items() if other not in here]
    if not gone:
        gone = ["all are there, but could not connect: is there a firewall, or the wrong interface (docs/clusters.md)?"]
    return "; ".join(gone)


def _absence(rank: int, note: StartStatus | None) -> str:
    if note is None:
        return f"rank {rank} has not come, and nothing is known of it: it was not started, or hangs"
    name = f"rank {rank} ({note.host}, pid {note.pid})"
    if note.count == 0:
        return f"{name} has not come: it is still starting, or is stopped"
    return f"{name} gives no sign of life: it is stopped, or was killed"


def _remind(rank: int, waited: float) -> None:
    note = _note(0)
    say(
        f"vggdist: rank {rank} ({note.host}, pid {note.pid}) has waited {waited:.0f} s for the others to start; one that does "
        "not say so is missing"
    )


def _note(count: int) -> StartStatus:
    return StartStatus(socket.gethostname(), os.getpid(), count)


@contextmanager
def _repeating(action: Callable[[int, float], None], waits: Iterable[float]) -> Iterator[None]:
    """Let a thread do something again and again, with its number from 1 and the seconds since the beginning.

    Args:
        waits: seconds before each time.
    """
    over, began = threading.Event(), time.monotonic()

    def act() -> None:
        for number, wait in enumerate(waits, start=1):
            if over.wait(wait):
                return
            action(number, time.monotonic() - began)

    threading.Thread(target=act, name="meeting", daemon=True).start()
    try:
        yield
    finally:
        over.set()
