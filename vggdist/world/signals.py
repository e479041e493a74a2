"""Requests to stop: signals from a person or a batch system, and the end of the time that the run was given."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequests:
    """While it is entered, SIGTERM, SIGUSR1 and SIGINT ask for a stop instead of ending this process.

    A thread learns of a signal at once, also while the main thread waits inside MXNet or Horovod, where Python's own handlers
    do not run. A second SIGINT ends the process there and then, with exit code 1 and without a checkpoint. Each rank knows
    only its own requests: the ranks must agree on them before they stop.
    """

    reserve: float = 0.0
    """Seconds before the deadline at which to stop: what is still to be done takes so long (a step, a checkpoint)."""

    def __init__(self, rank: int, size: int, deadline: float | None = None) -> None:
        """Prepare; nothing is installed before it is entered.

        Args:
            deadline: in seconds of ``time.monotonic()``; None is no limit.
        """
        self._name = f"rank {rank}: " if size > 1 else ""
        self._deadline = deadline
        self._reason: str | None = None
        self._interrupts = 0
        self._former: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop: ``"SIGTERM"``, ``"SIGUSR1"``, ``"SIGINT"`` or ``"run.max_time"``, the first that came; else None."""
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline - self.reserve:
            self._reason = "run.max_time"
            logger.info("run.max_time: stopping at the next step boundary")  # the same on all ranks: rank 0 tells it
        return self._reason

    def __enter__(self) -> StopRequests:
        """Install the handlers.

        Raises:
            ValueError: outside the main thread.
        """
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._former_wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="stop requests", daemon=True)
        self._thread.start()
        for number in _SIGNALS:
            self._former[number] = signal.signal(number, _noted_elsewhere)
            signal.siginterrupt(number, False)  # C libraries that do not expect EINTR go on reading and writing
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Restore what was installed before; a signal that came until now is in ``reason``."""
        try:
            for number, handler in self._former.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        finally:
            signal.set_wakeup_fd(self._former_wakeup)
            self._writing.close()  # the thread reads what is left, then the end
            self._thread.join(timeout=1)

    def _listen(self) -> None:
        with self._reading:
            while numbers := self._reading.recv(64):
                for number in numbers:
                    if number in _SIGNALS:
                        self._note(signal.Signals(number))

    def _note(self, number: signal.Signals) -> None:
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts == 2:
            # Not by print: a main thread that is stuck may hold the stream's lock.
            os.write(2, f"vggdist: {self._name}interrupted twice; ending without a checkpoint\n".encode())
            os._exit(1)
        if self._reason is None:
            self._reason = number.name
            logger.warning("%s: stopping at the next step boundary", number.name)


def _noted_elsewhere(number: int, frame: FrameType | None) -> None:
    """Stand in for the default action; the number has reached the thread through the wakeup descriptor."""
