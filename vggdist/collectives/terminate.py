"""Turns an uncaught C++ exception of Horovod into a return value.

Horovod does not catch an exception of its background thread when the ranks of an elastic job cannot connect, or when this
process is not one of them. C++ then calls ``std::terminate``, and SIGABRT would end the process before it can report an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator

_HANDLER = ctypes.CFUNCTYPE(None)
_kept: list[object] = []  # C++ may hold them until the process ends


def completes(action: Callable[[], object]) -> bool:
    """Whether an action returns without ``std::terminate`` and without ``ValueError``, Horovod's "initialization failed".

    If not, its threads never end: the process must end by ``os._exit``. Any other exception of the action is raised.
    """
    ended = threading.Event()
    succeeded = False
    failures: list[BaseException] = []

    def run() -> None:
        nonlocal succeeded
        try:
            action()
            succeeded = True
        except BaseException as error:
            failures.append(error)
        ended.set()

    def block() -> None:
        ended.set()
        threading.Event().wait()

    with _terminate_calls(block):
        threading.Thread(target=run, name="initialization", daemon=True).start()
        ended.wait()
    if failures and not isinstance(failures[0], ValueError):
        raise failures[0]
    return succeeded


@contextlib.contextmanager
def _terminate_calls(handler: Callable[[], None]) -> Iterator[None]:
    """Make ``std::terminate`` call a function that does not return. Does nothing without libstdc++."""
    try:
        set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]
    except (OSError, AttributeError):
        yield
        return
    set_terminate.argtypes, set_terminate.restype = [ctypes.c_void_p], ctypes.c_void_p
    _kept.append(function := _HANDLER(handler))
    previous = set_terminate(ctypes.cast(function, ctypes.c_void_p))
    try:
        yield
    finally:
        set_terminate(previous)
