"""If the ranks do not connect, the missing ones are reported. With a rendezvous server in this process, without Horovod."""

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
    """The environment of rank 0 of three, with a running server."""
    monkeypatch.setattr(initialization, "_INTERVAL", 0.1)
    monkeypatch.setattr(initialization, "_REPORT_DELAY", 0.0)
    server = RendezvousServer()
    port = server.start()
    server.init([])
    rendezvous = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}
    yield {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "3", **rendezvous}
    server.stop()


def store_of(environment: dict[str, str]) -> RendezvousStore:
    found = RendezvousStore.of(environment)
    assert found is not None
    return found


def time_out() -> None:
    """Fail as Horovod does after its timeout."""
    raise ValueError("Horovod initialization failed")


def test_the_missing_ranks_are_named_with_what_is_known_of_them(environment: dict[str, str]) -> None:
    announce({**environment, "HOROVOD_RANK": "1"})
    with pytest.raises(RunError) as caught:
        initialize(time_out, environment)
    first, second = str(caught.value).split("; ")
    assert "did not connect within HOROVOD_GLOO_TIMEOUT_SECONDS, 30 s: rank 1 (" in first
    assert f"pid {os.getpid()}) has not reached hvd.init(): it is still starting, or is stopped" in first
    assert second == "rank 2 has not reached hvd.init(), and sent no status: it was not launched, or hangs"


@contextmanager
def running(store: RendezvousStore, rank: int) -> Iterator[None]:
    """Context in which another rank writes its status."""
    ended = threading.Event()

    def write_status() -> None:
        for number in count(1):
            store.write(rank, StartStatus(f"host{rank}", 10 + rank, number))
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=write_status)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_a_stopped_rank_is_reported_but_not_one_that_waits(environment: dict[str, str]) -> None:
    store = store_of(environment)
    store.write(1, StartStatus("host1", 11, 7))
    expected = r", 5 s: rank 1 \(host1, pid 11\) sends no status any more: it is stopped, or was killed$"
    with running(store, 2), pytest.raises(RunError, match=expected):
        initialize(time_out, {**environment, "HOROVOD_GLOO_TIMEOUT_SECONDS": "5"})


def test_if_all_ranks_run_the_network_is_reported(environment: dict[str, str]) -> None:
    store = store_of(environment)
    with running(store, 1), running(store, 2), pytest.raises(RunError, match="all are running, but could not connect"):
        initialize(time_out, environment)


def test_ranks_that_connect_print_nothing_and_stop_their_status(
    environment: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    store = store_of(environment)
    initialize(lambda: time.sleep(0.3), environment)
    status = store.read(0)
    assert status is not None and status.pid == os.getpid() and status.count >= 1
    time.sleep(0.3)
    assert store.read(0) == status or store.read(0) == StartStatus(status.host, status.pid, status.count + 1)
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
def test_one_rank_and_an_elastic_job_only_call_horovod(environment_of: dict[str, str]) -> None:
    announce(environment_of)
    called_by = []
    initialize(lambda: called_by.append(threading.current_thread()), environment_of)
    assert called_by == [threading.main_thread()]


def test_without_a_server_a_rank_prints_that_it_waits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(initialization, "_REMINDER", 0.1)
    initialize(lambda: time.sleep(0.5), {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"})
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3 and all(line.startswith("vggdist: rank 3 (") for line in lines)
    assert "s for the other ranks to start; a rank that does not print this line is missing" in lines[0]


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"7", b"{}", b'{"host": 1}', b"[" * 9999, b"\xff", b'{"host":"a","pid":"x"}']
)
def test_a_status_that_cannot_be_read_is_no_error(environment: dict[str, str], content: bytes) -> None:
    store = store_of(environment)
    store._request("PUT", 1, content)
    assert store.read(1) is None


def test_a_server_that_does_not_answer_is_no_error() -> None:
    store = RendezvousStore("127.0.0.1", 9)
    store.write(0, StartStatus("host", 1, 1))
    assert store.read(0) is None
