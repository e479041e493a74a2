"""Threads that must not interrupt others are started so, and nobody else is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from vggdist.environment.scheduling import starting_patient_threads


def in_a_thread(action: Callable[[], None]) -> None:
    """Whatever an action does to its own thread ends with it."""
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("chosen", "meanwhile"),
    [(os.SCHED_OTHER, os.SCHED_BATCH), (os.SCHED_IDLE, os.SCHED_IDLE), (os.SCHED_BATCH, os.SCHED_BATCH)],
)
def test_a_thread_that_is_started_meanwhile_is_patient_unless_the_user_chose_otherwise(chosen: int, meanwhile: int) -> None:
    told: list[int] = []

    def tell() -> None:
        told.append(os.sched_getscheduler(0))

    def start() -> None:
        os.sched_setscheduler(0, chosen, os.sched_param(0))
        with starting_patient_threads():
            in_a_thread(tell)
        tell()

    in_a_thread(start)
    assert told == [meanwhile, chosen]


def test_an_error_leaves_the_thread_as_it_was() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), starting_patient_threads():
        fail()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_it_is_forbidden_the_threads_start_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with starting_patient_threads():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
