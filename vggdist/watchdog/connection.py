"""Non-blocking connection between the watchdogs of two ranks: newline-delimited JSON over TCP."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

Message = dict[str, Any]

_LONGEST_LINE = 64 * 1024
"""Bytes; every message of a rank is much shorter."""


class Link:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.rank: int | None = None
        """The peer's rank; None until the handshake."""
        self.opened = time.monotonic()
        self._incoming = b""
        self.outgoing = b""

    def send(self, message: Message) -> None:
        """Send a message, or put it into the buffer. It is dropped if the buffer is full."""
        if len(self.outgoing) < _LONGEST_LINE:
            self.outgoing += json.dumps(message).encode() + b"\n"
            self.flush()

    def flush(self) -> None:
        """Send as much of the buffer as the system accepts now. An error is reported by :meth:`receive`."""
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except BlockingIOError:
            pass  # also while the connection is being established
        except OSError:
            self.outgoing = b""

    def receive(self) -> tuple[list[Message], bool]:
        """The messages received (lines that are not JSON objects are dropped), and whether the connection has ended."""
        try:
            chunk = self.socket.recv(_LONGEST_LINE)
        except BlockingIOError:
            return [], False
        except OSError:
            return [], True
        *lines, self._incoming = (self._incoming + chunk).split(b"\n")
        messages = [message for line in lines if isinstance(message := _parsed(line), dict)]
        return messages, not chunk or len(self._incoming) > _LONGEST_LINE


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
