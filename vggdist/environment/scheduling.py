"""How the kernel shares a rank's cores among its threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def starting_patient_threads() -> Iterator[None]:
    """Threads that this thread starts meanwhile wait their turn when they wake (``SCHED_BATCH``; see sched(7)).

    For Horovod's and Gloo's. When a message arrives, Gloo's thread tries a lock that Horovod's thread mostly holds, again and
    again without sleeping. On one core it would push the holder aside and then spin for its whole time slice, some 3 ms
    instead of 0.2 for each message. And where computation keeps the core busy, a look for work costs it less.

    Nothing is changed where the user has chosen a policy (``chrt``).
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    with suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
