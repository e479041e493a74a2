"""One connection between two ranks' watches: newline-delimited JSON over TCP, and nothing that blocks."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

Message = dict[str, Any]

_LONGEST_LINE = 64 * 1024
"""Bytes; nothing that a rank says comes near it."""


class Link:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.rank: int | None = None
        """Who is at the other end, known once greeted."""
        self.opened = time.monotonic()
        self._incoming = b""
        self.outgoing = b""

    def send(self, message: Message) -> None:
        """Send a message, or as much of it as the system takes now; unless too much waits already: it is then dropped."""
        if len(self.outgoing) < _LONGEST_LINE:
            self.outgoing += json.dumps(message).encode() + b"\n"
            self.flush()

    def flush(self) -> None:
        """Send what waits, as much as the system takes now. An error shows when this link is read."""
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except BlockingIOError:
            pass  # also while the connection is still being made
        except OSError:
            self.outgoing = b""

    def receive(self) -> tuple[list[Message], bool]:
        """What has arrived (lines that are no JSON object are dropped), and whether the connection is over."""
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
