"""When the ranks do not meet, those that are missing are named. A rendezvous server is in this process, Horovod in none."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from horovod.runner.http.http_server import RendezvousServer

from vggdist.collectives import initialization
from vggdist.collectives.initialization import RendezvousStore, StartStatus, announce, initialize
from vggdist.config.errors import RunError


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Of rank 0 of three, with a server that answers."""
    monkeypatch.setattr(initialization, "_INTERVAL", 0.1)
    monkeypatch.setattr(initialization, "_BEHIND_FIRST", 0.0)
    server = RendezvousServer()
    port = server.start()
    server.init([])
    rendezvous = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}
    yield {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "3", **rendezvous}
    server.stop()


def board_of(environment: dict[str, str]) -> RendezvousStore:
    found = RendezvousStore.of(environment)
    assert found is not None
    return found


def in_vain() -> None:
    """What Horovod does after its timeout."""
    raise ValueError("Horovod initialization failed")


def test_the_missing_ranks_are_named_with_what_is_known_of_them(environment: dict[str, str]) -> None:
    announce({**environment, "HOROVOD_RANK": "1"})
    with pytest.raises(RunError) as caught:
        initialize(in_vain, environment)
    first, second = str(caught.value).split("; ")
    assert "did not meet within HOROVOD_GLOO_TIMEOUT_SECONDS, 30 s: rank 1 (" in first
    assert f"pid {os.getpid()}) has not come: it is still starting, or is stopped" in first
    assert second == "rank 2 has not come, and nothing is known of it: it was not started, or hangs"


@contextmanager
def noting(board: RendezvousStore, rank: int) -> Iterator[None]:
    """Another rank is alive meanwhile."""
    over = threading.Event()

    def note() -> None:
        for number in count(1):
            board.write(rank, StartStatus(f"host{rank}", 10 + rank, number))
            if over.wait(0.05):
                return

    thread = threading.Thread(target=note)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_rank_that_no_longer_moves_is_told_from_one_that_waits(environment: dict[str, str]) -> None:
    board = board_of(environment)
    board.write(1, StartStatus("host1", 11, 7))
    expected = r", 5 s: rank 1 \(host1, pid 11\) gives no sign of life: it is stopped, or was killed$"
    with noting(board, 2), pytest.raises(RunError, match=expected):
        initialize(in_vain, {**environment, "HOROVOD_GLOO_TIMEOUT_SECONDS": "5"})


def test_when_all_are_there_the_network_is_named(environment: dict[str, str]) -> None:
    board = board_of(environment)
    with noting(board, 1), noting(board, 2), pytest.raises(RunError, match="all are there, but could not connect"):
        initialize(in_vain, environment)


def test_ranks_that_meet_say_nothing_and_stop_to_note(environment: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    board = board_of(environment)
    initialize(lambda: time.sleep(0.3), environment)
    noted = board.read(0)
    assert noted is not None and noted.pid == os.getpid() and noted.count >= 1
    time.sleep(0.3)
    assert board.read(0) == noted or board.read(0) == StartStatus(noted.host, noted.pid, noted.count + 1)
    assert capfd.readouterr() == ("", "")


def test_an_error_of_another_kind_is_raised_as_it_is(environment: dict[str, str]) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        initialize(fail, environment)


@pytest.mark.parametrize(
    "environment_of",
    [
        {},
        {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"},
        {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2", "HOROVOD_ELASTIC": "1", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "x"},
    ],
)
def test_one_rank_and_an_elastic_job_meet_as_horovod_does(environment_of: dict[str, str]) -> None:
    announce(environment_of)
    called_by = []
    initialize(lambda: called_by.append(threading.current_thread()), environment_of)
    assert called_by == [threading.main_thread()]


def test_without_a_server_a_rank_says_that_it_waits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(initialization, "_REMINDER", 0.1)
    initialize(lambda: time.sleep(0.5), {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"})
    said = capfd.readouterr().err.splitlines()
    assert 1 <= len(said) <= 3 and all(line.startswith("vggdist: rank 3 (") for line in said)
    assert "s for the others to start; one that does not say so is missing" in said[0]


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"7", b"{}", b'{"host": 1}', b"[" * 9999, b"\xff", b'{"host":"a","pid":"x"}']
)
def test_what_others_leave_on_the_board_is_no_error(environment: dict[str, str], content: bytes) -> None:
    board = board_of(environment)
    board._request("PUT", 1, content)
    assert board.read(1) is None


def test_a_server_that_is_gone_is_no_error() -> None:
    board = RendezvousStore("127.0.0.1", 9)
    board.write(0, StartStatus("host", 1, 1))
    assert board.read(0) is None
