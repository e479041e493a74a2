"""What C++ does not catch, as an answer instead of the end of the process.

Horovod lets an exception of its background thread go uncaught when the ranks of an elastic job cannot meet, or this process is
not one of them: C++ then calls ``std::terminate``, and the process would die of SIGABRT without a word of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator

_HANDLER = ctypes.CFUNCTYPE(None)
_kept: list[object] = []  # C++ may hold them until the process ends


def completes(action: Callable[[], object]) -> bool:
    """Whether an action comes to its end without a ``ValueError``, which is Horovod's "initialization failed".

    Where it does not, its threads never end: the process must be left by ``os._exit``. Another error of the action is raised.
    """
    over = threading.Event()
    succeeded = False
    failures: list[BaseException] = []

    def act() -> None:
        nonlocal succeeded
        try:
            action()
            succeeded = True
        except BaseException as error:
            failures.append(error)
        over.set()

    def stay() -> None:
        over.set()
        threading.Event().wait()

    with _terminate_calls(stay):
        threading.Thread(target=act, name="outlives", daemon=True).start()
        over.wait()
    if failures and not isinstance(failures[0], ValueError):
        raise failures[0]
    return succeeded


@contextlib.contextmanager
def _terminate_calls(handler: Callable[[], None]) -> Iterator[None]:
    """Let ``std::terminate`` call a function that does not return, where the C++ library is the usual one."""
    try:
        set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]
    except (OSError, AttributeError):
        yield
        return
    set_terminate.argtypes, set_terminate.restype = [ctypes.c_void_p], ctypes.c_void_p
    _kept.append(function := _HANDLER(handler))
    former = set_terminate(ctypes.cast(function, ctypes.c_void_p))
    try:
        yield
    finally:
        set_terminate(former)
