"""Connections of one rank's watchdog to the others: rank 0 is the server, and rejects clients without its token."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from vggdist.watchdog.connection import Link, Message

logger = logging.getLogger(__name__)

_HANDSHAKE_TIMEOUT = 30.0
"""Seconds in which a new connection must be established and complete its handshake."""
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Peers:
    """The connections of this rank; only :meth:`wake` may be called from another thread. The base class has no connection."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._links: set[Link] = set()
        self._wakeup_reader, self._wakeup_writer = socket.socketpair()
        for end in (self._wakeup_reader, self._wakeup_writer):
            end.setblocking(False)
        self._selector.register(self._wakeup_reader, _READ)

    @property
    def ranks(self) -> set[int]:
        """The ranks that are connected."""
        return {link.rank for link in self._links if link.rank is not None}

    @property
    def connecting(self) -> bool:
        """Whether a connection has not completed its handshake."""
        return any(link.rank is None for link in self._links)

    def wake(self) -> None:
        """Make a waiting :meth:`poll` return."""
        try:
            self._wakeup_writer.send(b"\0")
        except OSError:
            pass  # the buffer is full, or it is closed

    def poll(self, seconds: float) -> list[tuple[int, Message | None]]:
        """Wait for messages, at most so long; returns rank and message of each, and None for a connection that ended."""
        events: list[tuple[int, Message | None]] = []
        for key, mask in self._selector.select(max(0.0, seconds)):
            if key.fileobj is self._wakeup_reader:
                self._wakeup_reader.recv(4096)
            elif key.data is None:
                self._accept()
            elif key.data in self._links:  # not dropped by a previous event
                events += self._serve(key.data, mask)
        for link in [link for link in self._links if link.rank is None]:
            if time.monotonic() - link.opened > _HANDSHAKE_TIMEOUT:
                self._drop(link)
        return events

    def send(self, message: Message) -> None:
        """Send to every connected rank."""
        for link in self._links:
            if link.rank is not None:
                link.send(message)
                self._watch_writing(link)

    def drain(self, seconds: float) -> None:
        """Wait at most so long until everything is sent; messages that arrive in this time are dropped."""
        deadline = time.monotonic() + seconds
        while any(link.outgoing for link in self._links if link.rank is not None):
            if (remaining := deadline - time.monotonic()) <= 0:
                break
            self.poll(remaining)

    def disconnect(self, rank: int) -> None:
        """End the connection to a rank."""
        for link in [link for link in self._links if link.rank == rank]:
            self._drop(link)

    def close(self) -> None:
        """End all connections."""
        for link in list(self._links):
            self._drop(link)
        self._selector.close()
        self._wakeup_reader.close()
        self._wakeup_writer.close()

    def _serve(self, link: Link, mask: int) -> list[tuple[int, Message | None]]:
        events: list[tuple[int, Message | None]] = []
        if mask & _WRITE:
            link.flush()
        messages, ended = link.receive() if mask & _READ else ([], False)
        for message in messages:
            if link.rank is None and not self._handshake(link, message):
                ended = True
                break
            assert link.rank is not None
            events.append((link.rank, message))
        if ended:
            if link.rank is not None:
                events.append((link.rank, None))
            self._drop(link)
        else:
            self._watch_writing(link)
        return events

    def _accept(self) -> None:
        """Accept a connection."""

    def _handshake(self, link: Link, message: Message) -> bool:
        """Process a link's first message: set the link's rank, or return False to drop it."""
        return False

    def _add(self, link: Link) -> None:
        self._links.add(link)
        self._selector.register(link.socket, _READ | _WRITE, link)

    def _watch_writing(self, link: Link) -> None:
        self._selector.modify(link.socket, _READ | (_WRITE if link.outgoing else 0), link)

    def _drop(self, link: Link) -> None:
        self._links.discard(link)
        self._selector.unregister(link.socket)
        link.socket.close()


class Server(Peers):
    """Rank 0's end of the connections."""

    def __init__(self, size: int, token: str) -> None:
        """Listen on a free port.

        Raises:
            OSError: the system does not allow it.
        """
        super().__init__()
        self._size, self._token = size, token
        self._connected: set[int] = set()
        self._listener = socket.create_server(("", 0), backlog=max(128, 2 * size))
        self._listener.setblocking(False)
        self._selector.register(self._listener, _READ)
        self.port: int = self._listener.getsockname()[1]

    def close(self) -> None:
        """End all connections and stop listening."""
        super().close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            link = Link(self._listener.accept()[0])
        except OSError:
            return
        self._add(link)
        if sum(link.rank is None for link in self._links) > 4 * self._size + 64:
            self._drop(min((link for link in self._links if link.rank is None), key=lambda link: link.opened))

    def _handshake(self, link: Link, message: Message) -> bool:
        rank = message.get("rank")
        if not hmac.compare_digest(str(message.get("token")).encode(errors="replace"), self._token.encode()):
            return False
        if not isinstance(rank, int) or not 0 < rank < self._size or rank in self._connected:
            return False  # already connected: the same rank, through another address of this host
        link.rank = rank
        link.send({"kind": "welcome"})
        self._connected.add(rank)
        if len(self._connected) == self._size - 1:
            self._selector.unregister(self._listener)
            self._listener.close()
        return True


class Client(Peers):
    """Another rank's end: it tries all addresses of rank 0 at once and keeps the first connection that rank 0 accepts."""

    def __init__(self, addresses: Sequence[str], port: int, token: str, rank: int) -> None:
        super().__init__()
        for address in addresses:
            link = Link(socket.socket())
            try:
                link.socket.connect((address, port))
            except BlockingIOError:
                pass  # being established
            except OSError:
                link.socket.close()
                continue
            link.send({"kind": "hello", "token": token, "rank": rank})
            self._add(link)

    def _handshake(self, link: Link, message: Message) -> bool:
        if message.get("kind") != "welcome":
            return False
        link.rank = 0
        for other in [other for other in self._links if other is not link]:
            self._drop(other)
        return True


def connect(rank: int, size: int, exchange: Callable[[Any], list[Any]]) -> tuple[Peers, list[tuple[str, int]]]:
    """Start to connect the ranks, without waiting; returns the connections, and host and process id of every rank.

    Args:
        exchange: collects one JSON-serialisable value of each rank, in the order of ranks.
    """
    own: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    peers, token = Peers(), secrets.token_hex(16)
    if rank == 0 and size > 1:
        try:
            peers = Server(size, token)
            own |= {"port": peers.port, "addresses": _own_addresses(), "token": token}
        except OSError as error:
            logger.warning("each rank's watchdog monitors only its own rank: no port to listen on (%s)", error)
    ranks = exchange(own)
    root = ranks[0]
    if rank > 0 and "port" in root:
        local = ["127.0.0.1"] if root["host"] == own["host"] else []
        peers = Client([*local, *root["addresses"]], root["port"], root["token"], rank)
    return peers, [(one["host"], one["pid"]) for one in ranks]


def _own_addresses() -> list[str]:
    """The IPv4 addresses of this host that other hosts may reach."""
    found = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    return [a.address for a in found if a.family == socket.AF_INET and not a.address.startswith("127.")]
