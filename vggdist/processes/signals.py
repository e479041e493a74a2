"""Requests to stop: signals from a person or a batch system, and the end of the time that the run was given."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def ignore_stop_signals() -> None:
    """For a process whose outcome is recorded and which only has to end: a signal would make a failure of it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequests:
    """While it is entered, SIGTERM, SIGUSR1 and SIGINT ask for a stop instead of ending this process.

    A thread learns of a signal at once, also while the main thread waits inside MXNet or Horovod, where Python's own handlers
    do not run. Before the first step there is nothing to complete, and ``before_first_step`` ends the process. During the
    training the request is noted; each rank knows only its own requests, and the ranks must agree on them before they stop.
    A second SIGINT then ends the process there and then, with exit code 1 and without a checkpoint.
    """

    reserve: float = 0.0
    """Seconds before the deadline at which to stop: what is still to be done takes so long (a step, a checkpoint)."""
    deadline: float | None = None
    """Wall-clock limit in seconds of ``time.monotonic()``; None is no limit."""

    def __init__(self, rank: int, size: int, before_first_step: Callable[[signal.Signals], object] | None = None) -> None:
        """Prepare; nothing is installed before it is entered.

        Args:
            before_first_step: called by the thread for a signal before :meth:`begin_training`; None: it has begun.
        """
        self._name = f"rank {rank}: " if size > 1 else ""
        self._before_first_step = before_first_step
        self._training = before_first_step is None
        self._reason: str | None = None
        self._interrupts = 0
        self._former: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop: ``"SIGTERM"``, ``"SIGUSR1"``, ``"SIGINT"`` or ``"run.max_time"``, the first that came; else None."""
        if self._reason is None and self.deadline is not None and time.monotonic() >= self.deadline - self.reserve:
            self._reason = "run.max_time"
            logger.info("run.max_time: stopping at the next step boundary")  # the same on all ranks: rank 0 logs it
        return self._reason

    def request(self, reason: str) -> None:
        """Ask this process for a stop at the next step boundary, for a reason that a later one does not replace."""
        if self._reason is None:
            self._reason = reason

    def begin_training(self) -> None:
        """From now on a request is noted for the next step boundary."""
        self._training = True

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
        for number in STOP_SIGNALS:
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
                    if number in STOP_SIGNALS:
                        self._note(signal.Signals(number))

    def _note(self, number: signal.Signals) -> None:
        if not self._training and self._before_first_step is not None:
            self._before_first_step(number)
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
