"""Horovod's threads get the policy SCHED_BATCH, and no other threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from vggdist.environment.scheduling import batch_policy_for_new_threads


def in_a_thread(action: Callable[[], None]) -> None:
    """Run an action in a thread, so that its changes to the thread end with it."""
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("chosen", "new"),
    [(os.SCHED_OTHER, os.SCHED_BATCH), (os.SCHED_IDLE, os.SCHED_IDLE), (os.SCHED_BATCH, os.SCHED_BATCH)],
)
def test_new_threads_have_the_batch_policy_unless_the_user_chose_another(chosen: int, new: int) -> None:
    policies: list[int] = []

    def record() -> None:
        policies.append(os.sched_getscheduler(0))

    def start() -> None:
        os.sched_setscheduler(0, chosen, os.sched_param(0))
        with batch_policy_for_new_threads():
            in_a_thread(record)
        record()

    in_a_thread(start)
    assert policies == [new, chosen]


def test_an_error_leaves_the_thread_as_it_was() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), batch_policy_for_new_threads():
        fail()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_it_is_forbidden_the_threads_start_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with batch_policy_for_new_threads():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
