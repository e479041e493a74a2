"""A signal is received at once, also while the main thread is in C; the second Ctrl-C ends the process at once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.launching import DEADLINE
from vggdist.processes.signals import StopRequests, deferred_signals

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

IN_C = """
import ctypes, os, sys, threading, time
from vggdist.processes.signals import StopRequests

stop = StopRequests(rank=int(sys.argv[1]), size=int(sys.argv[2]))

def report():
    print("ready", flush=True)
    while stop.reason is None:
        time.sleep(0.001)
    print(stop.reason, flush=True)

with stop:
    threading.Thread(target=report, daemon=True).start()
    ctypes.CDLL(None).read(0, ctypes.create_string_buffer(1), 1)  # as in a collective: until the standard input ends
print("left", flush=True)
"""


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the log to ``caplog``, even if an earlier test has set up a console."""
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("vggdist"), "handlers", [])


def in_c(rank: int = 0, size: int = 1) -> subprocess.Popen[str]:
    """A process whose main thread is inside a C function that signals do not end."""
    process = subprocess.Popen(
        [sys.executable, "-c", IN_C, str(rank), str(size)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)  # for the main thread to be in C
    return process


def wait_for(stop: StopRequests) -> str | None:
    until = time.monotonic() + DEADLINE
    while stop.reason is None and time.monotonic() < until:
        time.sleep(0.001)
    return stop.reason


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_known_while_the_main_thread_is_in_c(number: signal.Signals) -> None:
    process = in_c()
    assert process.stdout is not None
    process.send_signal(number)
    assert process.stdout.readline() == f"{number.name}\n"
    assert process.poll() is None
    output, errors = process.communicate(timeout=DEADLINE)
    assert (output, errors) == ("left\n", f"{number.name}: stopping at the next step boundary\n")
    assert process.returncode == 0


@pytest.mark.parametrize(("rank", "size", "name"), [(0, 1, ""), (3, 4, "rank 3: ")])
def test_a_second_interrupt_ends_the_process_at_once(rank: int, size: int, name: str) -> None:
    process = in_c(rank, size)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=DEADLINE) == 1
    output, errors = process.communicate()
    assert output == ""
    assert errors.endswith(f"vggdist: {name}interrupted twice; ending without a checkpoint\n")


def test_signals_are_reported_once_and_the_first_counts(caplog: pytest.LogCaptureFixture) -> None:
    with StopRequests(0, 1) as stop:
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert wait_for(stop) == "SIGUSR1"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert stop.reason == "SIGUSR1"
    assert [record.message for record in caplog.records] == ["SIGUSR1: stopping at the next step boundary"]
    assert caplog.records[0].levelno == logging.WARNING  # printed on every rank


def test_an_interrupt_does_not_break_into_the_code() -> None:
    with StopRequests(0, 1) as stop:
        signal.raise_signal(signal.SIGINT)
        assert wait_for(stop) == "SIGINT"


def test_a_signal_just_before_the_end_is_not_lost() -> None:
    with StopRequests(0, 1) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.reason == "SIGTERM"


def test_other_signals_are_no_requests() -> None:
    previous = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        with StopRequests(0, 1) as stop:
            signal.raise_signal(signal.SIGUSR2)
        assert stop.reason is None
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_the_previous_handlers_are_restored_and_no_thread_remains() -> None:
    previous = [signal.getsignal(number) for number in SIGNALS]
    threads = threading.active_count()
    with pytest.raises(RuntimeError), StopRequests(0, 1):
        assert all(signal.getsignal(number) not in previous for number in SIGNALS)
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == previous
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_it_can_be_entered_again() -> None:
    for _ in range(2):
        with StopRequests(0, 1) as stop:
            signal.raise_signal(signal.SIGUSR1)
        assert stop.reason == "SIGUSR1"


def test_the_time_limit_is_a_request_that_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vggdist")
    stop = StopRequests(0, 1)
    stop.deadline = time.monotonic() + 100
    assert stop.reason is None
    stop.reserve = 101
    assert stop.reason == "run.max_time"
    stop.reserve = 0
    assert stop.reason == "run.max_time"
    assert [record.message for record in caplog.records] == ["run.max_time: stopping at the next step boundary"]


def test_a_signal_before_the_time_limit_is_the_reason() -> None:
    with StopRequests(0, 1) as stop:
        stop.deadline = time.monotonic() + 100
        signal.raise_signal(signal.SIGTERM)
        assert wait_for(stop) == "SIGTERM"
        stop.reserve = 101
        assert stop.reason == "SIGTERM"


def test_before_the_first_step_a_signal_ends_the_process_though_the_main_thread_is_in_c() -> None:
    program = IN_C.replace(
        "size=int(sys.argv[2]))", "size=int(sys.argv[2]), before_first_step=lambda number: os._exit(40 + number))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "0", "1"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=DEADLINE) == 40 + signal.SIGTERM


def test_once_the_training_has_begun_a_signal_is_noted() -> None:
    early: list[signal.Signals] = []
    with StopRequests(0, 1, before_first_step=early.append) as stop:
        stop.begin_training()
        signal.raise_signal(signal.SIGTERM)
        assert wait_for(stop) == "SIGTERM"
    assert early == []


def test_deferred_signals_are_handled_at_the_end_of_the_block() -> None:
    former, done = signal.signal(signal.SIGTERM, signal.default_int_handler), []
    try:
        with pytest.raises(KeyboardInterrupt), deferred_signals():
            signal.raise_signal(signal.SIGTERM)
            done.append("started")
        assert done and signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        with deferred_signals():
            done.append("no signal")
    finally:
        signal.signal(signal.SIGTERM, former)


def test_signals_that_are_ignored_stay_so_in_a_program_that_is_started_meanwhile() -> None:
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal; print(signal.getsignal(signal.SIGTERM).name, signal.getsignal(signal.SIGINT).__name__)"
    try:
        with deferred_signals():
            child = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=DEADLINE)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert child.stdout == "SIG_IGN default_int_handler\n"
