"""Calls ``hvd.init()``, and reports the missing ranks if it does not complete.

Horovod reports nothing while it waits there: on Gloo until its timeout, after which it aborts the process; on MPI for ever. On
Gloo each rank writes its status to the launcher's rendezvous server once per second until all ranks are connected. So after
a timeout a rank can name the ranks that never started and those that no longer run. MPI has no such server: there each rank
prints that it is waiting.
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
from vggdist.processes.streams import write_error

_SCOPE = "vggdist.start"
_SERVER_TIMEOUT = 3.0
"""Seconds for an answer of the server."""
_INTERVAL = 1.0
"""Seconds between two status messages of a rank."""
_REPORT_DELAY = 5.0
"""Seconds by which the other ranks delay their report; the launcher ends them after the first report."""
_REMINDER = 30.0
"""Seconds after which a rank first prints that it is waiting, if there is no rendezvous server."""


@dataclass(frozen=True)
class StartStatus:
    """Start status of a rank.

    Attributes:
        count: number of status messages from ``hvd.init()`` so far; 0 before it.
    """

    host: str
    pid: int
    count: int


class RendezvousStore:
    """The ranks' status at the rendezvous server of horovodrun, or of ``vggdist rendezvous``."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> RendezvousStore | None:
        """The server that the environment specifies; None without one, and in an elastic job, where ranks change."""
        address, port = (environment.get(f"HOROVOD_GLOO_RENDEZVOUS_{name}", "") for name in ("ADDR", "PORT"))
        if not address or not port.isdecimal() or "HOROVOD_ELASTIC" in environment:
            return None
        return cls(address, int(port))

    def write(self, rank: int, status: StartStatus) -> None:
        """Store a rank's status. Does nothing if the server does not answer."""
        self._request("PUT", rank, json.dumps(asdict(status)).encode())

    def read(self, rank: int) -> StartStatus | None:
        """A rank's newest status; None without one."""
        try:
            found = json.loads(self._request("GET", rank) or b"null")
            return StartStatus(str(found["host"])[:255], int(found["pid"]), int(found["count"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def _request(self, method: str, rank: int, body: bytes | None = None) -> bytes | None:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=_SERVER_TIMEOUT)
        try:
            connection.request(method, f"/{_SCOPE}/{rank}", body)
            answer = connection.getresponse()
            return answer.read(2**16) if answer.status == http.client.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def announce(environment: Mapping[str, str] = os.environ) -> None:
    """Report that this rank's process has started; to be called before the imports in which it may hang."""
    topology = from_environment(environment)
    if topology.size > 1 and (store := RendezvousStore.of(environment)):
        store.write(topology.rank, _own_status(0))


def initialize(init: Callable[[], object], environment: Mapping[str, str] = os.environ) -> None:
    """Call ``hvd.init()``.

    Raises:
        RunError: the ranks did not connect within Horovod's timeout; names the missing ranks. The process must then end by
            ``os._exit``.
    """
    topology, store = from_environment(environment), RendezvousStore.of(environment)
    if topology.size == 1 or "HOROVOD_ELASTIC" in environment:
        init()
    elif store is None:
        with _repeating(lambda number, waited: _remind(topology.rank, waited), (_REMINDER * 2**n for n in count())):
            init()
    else:
        with _repeating(
            lambda number, waited: store.write(topology.rank, _own_status(number)), chain([0.0], repeat(_INTERVAL))
        ):
            if not completes(init):
                timeout = environment.get("HOROVOD_GLOO_TIMEOUT_SECONDS", "30")
                missing = _missing(store, topology.rank, topology.size)
                raise RunError(f"the ranks did not connect within HOROVOD_GLOO_TIMEOUT_SECONDS, {timeout} s: {missing}")


def _missing(store: RendezvousStore, rank: int, size: int) -> str:
    """The ranks that have no status, or whose status does not change any more."""
    before = {other: store.read(other) for other in range(size)}
    time.sleep(3 * _INTERVAL)
    now = {other: store.read(other) for other in range(size)}
    alive = [other for other, status in now.items() if other == rank or status is not None and status != before[other]]
    if rank != alive[0]:
        time.sleep(_REPORT_DELAY)
    missing = [_describe_missing(other, status) for other, status in now.items() if other not in alive]
    if not missing:
        return "all are running, but could not connect: is there a firewall, or a wrong interface (docs/clusters.md)?"
    return "; ".join(missing)


def _describe_missing(rank: int, status: StartStatus | None) -> str:
    if status is None:
        return f"rank {rank} has not reached hvd.init(), and sent no status: it was not launched, or hangs"
    name = f"rank {rank} ({status.host}, pid {status.pid})"
    if status.count == 0:
        return f"{name} has not reached hvd.init(): it is still starting, or is stopped"
    return f"{name} sends no status any more: it is stopped, or was killed"


def _remind(rank: int, waited: float) -> None:
    status = _own_status(0)
    write_error(
        f"vggdist: rank {rank} ({status.host}, pid {status.pid}) has waited {waited:.0f} s for the other ranks to start; a "
        "rank that does not print this line is missing"
    )


def _own_status(count: int) -> StartStatus:
    return StartStatus(socket.gethostname(), os.getpid(), count)


@contextmanager
def _repeating(action: Callable[[int, float], None], waits: Iterable[float]) -> Iterator[None]:
    """Call a function repeatedly in a thread, with the number of the call from 1 and the seconds since the beginning.

    Args:
        waits: seconds before each call.
    """
    ended, started = threading.Event(), time.monotonic()

    def call() -> None:
        for number, wait in enumerate(waits, start=1):
            if ended.wait(wait):
                return
            action(number, time.monotonic() - started)

    threading.Thread(target=call, name="start status", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
