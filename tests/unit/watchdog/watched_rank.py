"""The ranks of ``test_watchdog.py``. Without pytest, so that they start fast."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from vggdist.watchdog import watchdog as module
from vggdist.watchdog.heartbeat import RankFailure
from vggdist.watchdog.watchdog import Watchdog

DEADLINE = 600.0
"""Seconds after which a rank ends by itself."""
GRACE = 0.3
module._STALL_DELAY, module._AFTER_ROOT = 0.2, 0.6
module._FIRST_TIMEOUT_FACTOR = 1.0  # these ranks do everything once


class Rank:
    """The behaviours, and what they use."""

    def __init__(self, rank: int, size: int, behaviour: str, directory: Path, timeout: float) -> None:
        self.rank, self.size, self.directory = rank, size, directory
        exchanges = {"move_unconnected": self.exchange_a_closed_port, "start_late": self.exchange_and_wait}
        exchange = exchanges.get(behaviour, self.exchange)
        self.watchdog = Watchdog.start(rank, size, exchange, timeout, self.record, GRACE)
        self.watchdog.beat("started")
        until = time.monotonic() + DEADLINE
        while behaviour != "move_unconnected" and not self.connected() and time.monotonic() < until:
            time.sleep(0.01)
        (directory / f"working-{rank}").touch()
        self.wait_for(*(f"working-{rank}" for rank in range(size)))

    def connected(self) -> bool:
        """Whether this rank's connections are established."""
        unreachable = {1} if (self.directory / "unconnected").exists() else set()
        wanted = set(range(1, self.size)) - unreachable if self.rank == 0 else {0}
        return wanted <= self.watchdog._peers.ranks

    def exchange(self, value: Any) -> list[Any]:
        """``World.gather`` through files."""
        if self.rank == 0 and "port" in value:
            self.write("port", str(value["port"]))
        self.write(f"place-{self.rank}", json.dumps(value))
        self.wait_for(*(f"place-{rank}" for rank in range(self.size)))
        return [json.loads((self.directory / f"place-{rank}").read_text()) for rank in range(self.size)]

    def exchange_a_closed_port(self, value: Any) -> list[Any]:
        """Return a closed port of rank 0, as behind a firewall."""
        (self.directory / "unconnected").touch()
        ranks = self.exchange(value)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            return [{**ranks[0], "port": closed.getsockname()[1]}, *ranks[1:]]

    def exchange_and_wait(self, value: Any) -> list[Any]:
        """Connect on request of the test."""
        ranks = self.exchange(value)
        self.wait_for("start-1")
        return ranks

    def record(self, failure: RankFailure) -> None:
        record = {"rank": failure.rank, "text": failure.text, "exit_code": failure.exit_code, "time": time.time()}
        self.write(f"failure-{self.rank}", json.dumps(record))

    def write(self, file: str, text: str) -> None:
        (self.directory / f"{file}.{self.rank}").write_text(text)
        (self.directory / f"{file}.{self.rank}").rename(self.directory / file)

    def wait_for(self, *files: str) -> None:
        while not all((self.directory / file).exists() for file in files):
            time.sleep(0.01)

    def wait(self) -> None:
        """Wait as in a collective that never ends."""
        self.watchdog.beat("step")
        time.sleep(0.05)
        self.watchdog.beat("collective")
        time.sleep(DEADLINE)

    def wait_for_the_stop(self) -> None:
        self.watchdog.beat("collective")
        self.wait_for("stop")

    def move(self) -> None:
        while not (self.directory / "stop").exists():
            self.watchdog.beat("step")
            time.sleep(0.02)

    move_unconnected = move

    def move_alone(self) -> None:
        self.watchdog.beat("collective")
        while not (self.directory / "stop").exists():
            self.watchdog.beat("checkpoint", alone=True)
            time.sleep(0.02)

    def pause(self) -> None:
        self.watchdog.pause()
        time.sleep(DEADLINE)

    def sleep(self) -> None:
        self.watchdog.beat("sleep")
        time.sleep(DEADLINE)

    def sleep_in_c(self) -> None:
        self.watchdog.beat("sleep_in_c")
        ctypes.CDLL(None).sleep(int(DEADLINE))

    def keep_the_lock(self) -> None:
        self.watchdog.beat("keep_the_lock")
        ctypes.PyDLL(None).sleep(int(DEADLINE))

    def end_on_request(self) -> None:
        self.wait_for(f"end-{self.rank}")

    def ask(self) -> None:
        """Ask for the failure, as after a communication error of Horovod."""
        failure = self.watchdog.failure(DEADLINE)
        assert failure is not None
        self.record(failure)
        time.sleep(1)  # the watchdog does not end the process of a main thread that knows the failure
        os._exit(7)

    def report(self) -> None:
        self.watchdog.report_failure("the disk is full", 3)
        print("reported and confirmed" if self.watchdog.failure(0) else "reported", flush=True)
        os._exit(3)

    def abort(self) -> None:
        """Abort as Horovod's thread may after another rank's end."""
        while self.watchdog._failure is None:
            time.sleep(0.001)
        ctypes.CDLL(None).abort()

    def fail_to_record(self) -> None:
        self.watchdog._on_failure = no_space
        self.sleep()

    show_the_port = start_late = wait


def no_space(failure: RankFailure) -> None:
    raise OSError("no space left")


def main(rank: int, size: int, behaviour: str, directory: Path, timeout: float) -> None:
    this = Rank(rank, size, behaviour, directory, timeout)
    getattr(this, behaviour)()
    this.watchdog.close()


def fork(rank: int, size: int, behaviour: str, directory: Path, timeout: float) -> int:
    """A process for one rank, whose output goes to a file; returns its id."""
    if process := os.fork():
        return process
    output = os.open(directory / f"output-{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        main(rank, size, behaviour, directory, timeout)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(99)
    os._exit(0)


def launch(directory: Path, timeout: float, behaviours: list[str]) -> None:
    """Fork the ranks, print their process ids, and write their exit codes to files."""
    ranks = {fork(rank, len(behaviours), name, directory, timeout): rank for rank, name in enumerate(behaviours)}
    print(*ranks, flush=True)
    for _ in behaviours:
        process, status = os.wait()
        (directory / "code").write_text(str(os.waitstatus_to_exitcode(status)))
        (directory / "code").rename(directory / f"code-{ranks[process]}")


if __name__ == "__main__":
    launch(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
