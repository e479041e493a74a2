"""Stop requests: signals of a user or a batch system, and the time limit of the run."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def ignore_stop_signals() -> None:
    """Ignore signals in a process whose result is written and which is about to exit: a signal would make it a failure."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Context in which SIGINT, SIGTERM and SIGHUP wait; the handlers that Python code has installed are called at its end.

    A handler that raises an exception while a process is being started would lose that process.
    """
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for arrival in arrived:
            signal.raise_signal(arrival)


def hold_aborts() -> None:
    """Make a thread that calls ``abort`` wait, in a process that another thread is about to end with its exit code.

    Horovod's background thread may find its heap corrupted after a rank is gone. SIGABRT would end this process at once,
    with code 134 and before it has reported the failed rank. Python's own handlers run in the main thread only.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.pause, ctypes.c_void_p))


class StopRequests:
    """Context in which SIGTERM, SIGUSR1 and SIGINT request a stop instead of ending this process.

    A thread receives signals at once, also while the main thread waits inside MXNet or Horovod, where Python's handlers do not
    run. Before the first step ``before_first_step`` is called and ends the process. During the training the request is stored;
    each rank has only its own requests, so the ranks must agree before they stop. A second SIGINT ends the process at once,
    with exit code 1 and without a checkpoint.
    """

    reserve: float = 0.0
    """Seconds before the deadline at which to stop, for the last step and the checkpoint."""
    deadline: float | None = None
    """Time limit in seconds of ``time.monotonic()``; None is no limit."""

    def __init__(self, rank: int, size: int, before_first_step: Callable[[signal.Signals], object] | None = None) -> None:
        """Handlers are installed on entry only.

        Args:
            before_first_step: called by the thread for a signal before :meth:`begin_training`; None: training has begun.
        """
        self._name = f"rank {rank}: " if size > 1 else ""
        self._before_first_step = before_first_step
        self._training = before_first_step is None
        self._reason: str | None = None
        self._interrupts = 0
        self._previous_handlers: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """The first stop request: ``"SIGTERM"``, ``"SIGUSR1"``, ``"SIGINT"`` or ``"run.max_time"``; None without one."""
        if self._reason is None and self.deadline is not None and time.monotonic() >= self.deadline - self.reserve:
            self._reason = "run.max_time"
            logger.info("run.max_time: stopping at the next step boundary")  # the same on all ranks: rank 0 logs it
        return self._reason

    def request(self, reason: str) -> None:
        """Request a stop at the next step boundary. The first reason is kept."""
        if self._reason is None:
            self._reason = reason

    def begin_training(self) -> None:
        """From now on a signal requests a stop at the next step boundary."""
        self._training = True

    def __enter__(self) -> StopRequests:
        """Install the handlers.

        Raises:
            ValueError: called outside the main thread.
        """
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._previous_wakeup_fd = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="stop requests", daemon=True)
        self._thread.start()
        for number in STOP_SIGNALS:
            self._previous_handlers[number] = signal.signal(number, _do_nothing)
            signal.siginterrupt(number, False)  # for C libraries that do not handle EINTR
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Restore the previous handlers; every signal received until now is in ``reason``."""
        try:
            for number, handler in self._previous_handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        finally:
            signal.set_wakeup_fd(self._previous_wakeup_fd)
            self._writing.close()  # the thread reads the remaining bytes, then ends
            self._thread.join(timeout=1)

    def _listen(self) -> None:
        with self._reading:
            while numbers := self._reading.recv(64):
                for number in numbers:
                    if number in STOP_SIGNALS:
                        self._handle(signal.Signals(number))

    def _handle(self, number: signal.Signals) -> None:
        if not self._training and self._before_first_step is not None:
            self._before_first_step(number)
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts == 2:
            # Not print: a main thread that hangs may hold the stream's lock.
            os.write(2, f"vggdist: {self._name}interrupted twice; ending without a checkpoint\n".encode())
            os._exit(1)
        if self._reason is None:
            self._reason = number.name
            logger.warning("%s: stopping at the next step boundary", number.name)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Replace the default action; the thread gets the number through the wakeup descriptor."""
