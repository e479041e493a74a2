"""Console output of the training: lines with an estimate of the remaining time, or a progress bar."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vggdist.reporting import console as console_module
from vggdist.reporting.console import Console, fitting, open_log, start_logging

METRICS = {
    "train/loss": 0.4812,
    "train/loss_moving_average": 3.13,
    "train/top1(%)": 88.19,
    "optim/learning_rate": 0.05,
    "throughput/images_per_s": 3103.0,
    "time/step(ms)": 1000.0,
}


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The package's logger, restored afterwards."""
    found = logging.getLogger("vggdist")
    former = found.handlers[:], found.level, found.propagate
    yield found
    found.handlers[:], found.level, found.propagate = former


class Clock:
    """A clock that a test sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(console_module.time, "monotonic", lambda: self.now)


def test_a_line_has_the_loss_of_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(rank=0)
    Console(0, 900, bar=False).training(900, 20.0, METRICS)
    line = "step 900/900  epoch 20.00  loss 0.4812  top1 88.19 %  lr 0.05000  3103 images/s\n"
    assert capsys.readouterr().out == line


def test_lines_estimate_the_end_from_all_that_was_done_since_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations and checkpoints count: a step takes 1 s, ten steps from report to report 15 s."""
    clock = Clock(monkeypatch)
    start_logging(rank=0)
    console = Console(100, 5000, bar=False)
    for step in (110, 120, 130):
        console.training(step, 1.0, METRICS)
        clock.now += 15
    assert re.findall(r"ETA (\S+)", capsys.readouterr().out) == ["1:21:30", "2:02:00", "2:01:45"]


def test_the_estimate_counts_work_where_later_steps_take_longer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ten of 40 steps take 1 s each, the others 3 s."""
    clock = Clock(monkeypatch)
    start_logging(rank=0)
    console = Console(0, 40, bar=False, work=lambda step: max(step, 3 * step - 20))
    for step in (5, 10, 20):
        clock.now = 1000 + max(step, 3 * step - 20)
        console.training(step, 1.0, METRICS)
    assert re.findall(r"ETA (\S+)", capsys.readouterr().out) == ["01:35", "01:30", "01:00"]


@contextmanager
def terminal() -> Iterator[int]:
    """Standard output is a terminal of 80 columns; what is printed is read from the descriptor."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with pytest.MonkeyPatch.context() as patch, os.fdopen(writing, "w") as output:
        patch.setattr(sys, "stdout", output)
        yield reading
    os.close(reading)


@pytest.mark.timeout(60)
def test_on_a_terminal_of_80_columns_the_bar_stays_a_bar_and_the_log_has_the_lines(tmp_path: Path) -> None:
    with terminal() as output:
        start_logging(rank=0)
        open_log(tmp_path / "log.txt")
        console = Console(0, 20_000, bar=True)
        console.training(5000, 2.5, METRICS)
        console.advance(10_000)
        console._bar.refresh()
        received = b""
        while not re.search(rb" 50%.*images/s", received):  # terminal output arrives in pieces
            received += os.read(output, 10_000)
        shown = received.decode().split("\r")[-1]
        assert re.fullmatch(r" 50%\|[█▏▎▍▌▋▊▉ ]{10,}\| 10000/20000 \[\S+\], loss 0.4812  3103 images/s", shown), shown
        assert len(shown) <= 80
        console.close()
    assert "step  5000/20000  epoch 2.50  loss 0.4812" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("total", [9, 900, 20_000, 10**7])
@pytest.mark.parametrize("columns", [40, 80, 100, 120, 200])
def test_the_metrics_leave_room_for_the_bar(total: int, columns: int) -> None:
    metrics = ["loss 0.4812", "3103 images/s", "top1 88.19 %", "lr 0.05000"]
    chosen = fitting(metrics, columns, total)
    rest = columns - len(f"100%|| {total}/{total} [0:00:00<00:00:00], {chosen}")
    assert rest >= 10 or not chosen
    assert "  ".join(metrics).startswith(chosen) and (columns < 200 or chosen == "  ".join(metrics))
