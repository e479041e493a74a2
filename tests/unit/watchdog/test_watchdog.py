"""When a rank fails, the others report it and end; without a failure nothing happens.

Each test starts real processes of ``watched_rank.py`` on localhost.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launching import DEADLINE
from vggdist.watchdog.watchdog import Watchdog

_RANK = Path(__file__).parent / "watched_rank.py"


class Ranks:
    """Processes, each with a behaviour of ``watched_rank.py``."""

    def __init__(self, directory: Path, behaviours: tuple[str, ...], timeout: float) -> None:
        self.directory, self.size = directory, len(behaviours)
        self.outputs: list[str] = []
        self.parent = subprocess.Popen(
            [sys.executable, _RANK, directory, str(timeout), *behaviours],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.parent.stdout is not None
        self.pids = [int(pid) for pid in self.parent.stdout.readline().split()]

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a rank that has not ended."""
        if not (self.directory / f"code-{rank}").exists():
            os.kill(self.pids[rank], number)

    def end(self) -> None:
        """Kill the remaining processes."""
        for rank in range(len(self.pids)):
            self.signal(rank, signal.SIGKILL)
        self.parent.communicate(timeout=DEADLINE)

    def wait_for(self, *files: str) -> None:
        """Wait until the ranks have written these files."""
        until = time.monotonic() + DEADLINE
        while not all((self.directory / file).exists() for file in files):
            assert time.monotonic() < until, f"{files} are missing"
            time.sleep(0.01)

    def wait_for_output(self, rank: int) -> None:
        """Wait until a rank has printed something."""
        until = time.monotonic() + DEADLINE
        while not (self.directory / f"output-{rank}").read_text():
            assert time.monotonic() < until, f"rank {rank} printed nothing"
            time.sleep(0.01)

    def running(self) -> None:
        """Wait until all ranks are connected and work."""
        self.wait_for(*(f"working-{rank}" for rank in range(self.size)))

    def code(self, rank: int) -> int:
        """Wait for the end of a rank."""
        self.wait_for(f"code-{rank}")
        return int((self.directory / f"code-{rank}").read_text())

    def codes(self) -> list[int]:
        """Wait for the ends."""
        codes = [self.code(rank) for rank in range(self.size)]
        self.outputs = [(self.directory / f"output-{rank}").read_text() for rank in range(self.size)]
        return codes

    def name(self, rank: int) -> str:
        return f"rank {rank} ({socket.gethostname()}, pid {self.pids[rank]})"

    def recorded(self, rank: int) -> dict[str, Any]:
        """The failure that the rank's callback, or its main thread, wrote."""
        return json.loads((self.directory / f"failure-{rank}").read_text())


def seconds(output: str, text: str) -> int:
    """The seconds that stand for ``#`` in a text, which a busy machine makes more than the timeout."""
    found = re.search(re.escape(text).replace(r"\#", r"(\d+)"), output)
    assert found is not None, output
    return int(found[1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Start ranks; those that are left after the test are killed."""
    started: list[Ranks] = []

    def start(*behaviours: str, timeout: float = 60) -> Ranks:
        started.append(Ranks(tmp_path, behaviours, timeout))
        return started[-1]

    yield start
    for ranks in started:
        ranks.end()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_by_all_others(start: Any, victim: int) -> None:
    ranks = start("wait", "wait", "wait")
    ranks.running()
    ranks.signal(victim, signal.SIGKILL)
    codes = ranks.codes()
    survivors = [rank for rank in range(3) if rank != victim]
    assert [codes[rank] for rank in survivors] == [1, 1]
    for rank in survivors:
        assert f"{ranks.name(victim)} is lost: its process was killed, or its host failed" in ranks.outputs[rank]
        assert ranks.recorded(rank)["rank"] == victim
    assert victim == 0 or ranks.recorded(0)["time"] < ranks.recorded(2)["time"]  # recorded before the other ranks end


def test_a_main_thread_with_an_error_gets_the_rank_that_was_killed(start: Any) -> None:
    ranks = start("ask", "wait", "ask")
    ranks.running()
    ranks.signal(1, signal.SIGKILL)
    assert ranks.codes() == [7, -signal.SIGKILL, 7]
    assert all(f"{ranks.name(1)} is lost" in ranks.recorded(rank)["text"] for rank in (0, 2))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_is_named_after_the_timeout_and_ends_when_it_goes_on(start: Any, victim: int) -> None:
    ranks = start("wait", "wait", timeout=2)
    ranks.running()
    other = 1 - victim
    stopped = time.time()
    ranks.signal(victim, signal.SIGSTOP)
    ranks.wait_for(f"failure-{other}")
    assert ranks.recorded(other)["time"] - stopped > 1
    assert ranks.code(other) == 1
    ranks.signal(victim, signal.SIGCONT)
    assert ranks.codes() == [1, 1]
    assert seconds(ranks.outputs[other], f"{ranks.name(victim)} has sent no heartbeat for # s; its last phase: ") >= 2


def test_a_rank_that_is_stopped_for_less_than_the_timeout_is_no_failure(start: Any) -> None:
    ranks = start("move", "move", timeout=30)
    ranks.running()
    for rank in (0, 1):
        ranks.signal(rank, signal.SIGSTOP)
        time.sleep(1)
        ranks.signal(rank, signal.SIGCONT)
    (ranks.directory / "stop").touch()
    assert ranks.codes() == [0, 0] and ranks.outputs == ["", ""]


@pytest.mark.parametrize(("hang", "at_fault"), [("sleep", 0), ("sleep", 1), ("sleep_in_c", 1)])
def test_a_hung_rank_is_named_with_its_phase_and_shows_its_stack(start: Any, hang: str, at_fault: int) -> None:
    behaviours = ["wait", "wait"]
    behaviours[at_fault] = hang
    ranks = start(*behaviours, timeout=1)
    assert ranks.codes() == [1, 1]
    for output in ranks.outputs:
        assert seconds(output, f"{ranks.name(at_fault)} has made no progress for # s in {hang}") >= 1
    assert seconds(ranks.outputs[at_fault], f"rank {at_fault}: no progress for # s in {hang}; the stack:") >= 1
    assert f" in {hang}\n" in ranks.outputs[at_fault]
    assert "the stack" not in ranks.outputs[1 - at_fault]
    assert [ranks.recorded(rank)["rank"] for rank in (0, 1)] == [at_fault, at_fault]


@pytest.mark.parametrize("at_fault", [0, 1])
def test_a_rank_that_keeps_python_s_lock_is_named_and_shows_its_stack(start: Any, at_fault: int) -> None:
    behaviours = ["wait", "wait"]
    behaviours[at_fault] = "keep_the_lock"
    ranks = start(*behaviours, timeout=1)
    assert ranks.codes() == [1, 1]
    assert seconds(ranks.outputs[1 - at_fault], f"{ranks.name(at_fault)} has sent no heartbeat for # s") >= 1
    assert "Timeout (0:00:01.5" in ranks.outputs[at_fault] and " in keep_the_lock\n" in ranks.outputs[at_fault]


def test_a_rank_ends_though_its_callback_fails(start: Any) -> None:
    ranks = start("fail_to_record", "wait", timeout=1)
    assert ranks.codes() == [1, 1]
    assert seconds(ranks.outputs[0], f"{ranks.name(0)} has made no progress for # s in sleep") >= 1
    assert "OSError: no space left" in ranks.outputs[0]


def test_one_rank_alone_may_take_any_time(start: Any) -> None:
    """Nobody waits for it."""
    ranks = start("wait_for_the_stop", timeout=0.3)
    ranks.running()
    time.sleep(2)
    (ranks.directory / "stop").touch()
    assert ranks.codes() == [0] and ranks.outputs == [""]


def test_the_first_two_phases_of_a_kind_have_a_longer_timeout() -> None:
    watchdog = Watchdog.start(0, 1, lambda value: [value], timeout=60)
    factors = []
    try:
        for phase in ("step 1", "step 2", "step 3", "evaluation after step 3", "step 4", "checkpoint of step 4"):
            watchdog.beat(phase)
            factors.append(watchdog._beat[3])
    finally:
        watchdog.close()
    assert factors == [5, 5, 1, 5, 1, 5]


def test_paused_ranks_may_take_any_time_but_not_die(start: Any) -> None:
    ranks = start("pause", "pause", timeout=1)
    ranks.running()
    time.sleep(1.8)
    ranks.signal(1, signal.SIGKILL)
    assert ranks.codes() == [1, -signal.SIGKILL]
    assert ranks.outputs[0] == f"vggdist: {ranks.name(1)} is lost: its process was killed, or its host failed\n"


def test_a_slow_rank_with_progress_is_waited_for(start: Any) -> None:
    ranks = start("wait_for_the_stop", "move_alone", timeout=5)
    ranks.running()
    time.sleep(7)
    (ranks.directory / "stop").touch()
    assert ranks.codes() == [0, 0] and ranks.outputs == ["", ""]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_ranks_that_end_in_any_order_raise_nothing(start: Any, order: tuple[int, ...]) -> None:
    ranks = start("end_on_request", "end_on_request", "end_on_request")
    ranks.running()
    for rank in order:
        (ranks.directory / f"end-{rank}").touch()
        ranks.code(rank)
    assert ranks.codes() == [0, 0, 0] and ranks.outputs == ["", "", ""]


@pytest.mark.parametrize("failed", [0, 1])
def test_a_rank_s_own_report_reaches_all_ranks_before_its_end(start: Any, failed: int) -> None:
    behaviours = ["ask", "ask", "wait"]
    behaviours[failed] = "report"
    ranks = start(*behaviours)
    codes = ranks.codes()
    assert codes == [3 if rank == failed else 7 if rank < 2 else 3 for rank in range(3)]
    for rank in {0, 1, 2} - {failed}:
        assert ranks.recorded(rank)["text"] == f"rank {failed}: the disk is full"
        assert ranks.recorded(rank)["exit_code"] == 3
    assert "reported and confirmed" in ranks.outputs[failed]


def test_a_rank_that_aborts_because_another_one_failed_ends_with_that_rank_s_code_and_message(start: Any) -> None:
    ranks = start("abort", "report", "abort")
    assert ranks.codes() == [3, 3, 3]
    assert ranks.recorded(0)["text"] == "rank 1: the disk is full"


def test_garbage_and_a_wrong_token_are_refused(start: Any) -> None:
    ranks = start("show_the_port", "start_late")
    ranks.wait_for("port")
    address = ("127.0.0.1", int((ranks.directory / "port").read_text()))
    failed = {"kind": "failed", "cause": "reported", "rank": 1, "text": "forged", "exit_code": 2, "behind": []}
    strangers = []
    for words in (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(4096).replace(b"\n", b"") + b"\n",
        b"[" * 60_000 + b"\n",
        b"\xff" * 200_000,
        b'{"token": "\\ud800", "rank": 1}\n',
        b'{"token": null, "rank": 1}\n' + json.dumps(failed).encode() + b"\n",
        json.dumps({**failed, "token": "0" * 32}).encode() + b"\n",
        b"",
    ):
        strangers.append(socket.create_connection(address, timeout=5))
        try:
            strangers[-1].sendall(words)
            if words.startswith(b'{"token"'):
                assert strangers[-1].recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    (ranks.directory / "start-1").touch()
    ranks.running()
    ranks.signal(1, signal.SIGKILL)  # the rank itself is connected and monitored
    assert ranks.codes() == [1, -signal.SIGKILL]
    assert f"{ranks.name(1)} is lost" in ranks.outputs[0] and "forged" not in ranks.outputs[0]
    for stranger in strangers:
        stranger.close()


def test_a_rank_that_cannot_connect_warns_once_and_monitors_itself(start: Any) -> None:
    ranks = start("move", "move_unconnected", timeout=3)
    ranks.wait_for("working-1")
    ranks.wait_for_output(1)
    (ranks.directory / "stop").touch()
    assert ranks.codes() == [0, 0] and ranks.outputs[0] == ""
    assert ranks.outputs[1].count("no connection to the watchdog of rank 0") == 1
    assert ranks.outputs[1].count("\n") == 1


def test_a_beat_costs_less_than_a_few_microseconds() -> None:
    watchdog = Watchdog.start(0, 1, lambda value: [value], timeout=60)
    try:
        started = time.thread_time()  # of this thread alone: the machine may be busy
        for _ in range(10_000):
            watchdog.beat("step 37")
        assert time.thread_time() - started < 0.1
    finally:
        watchdog.close()
    assert watchdog.failure(0) is None
