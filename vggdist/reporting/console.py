"""Log lines on the console (with a progress bar on a terminal) and in ``log.txt``."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from logging.handlers import MemoryHandler
from pathlib import Path

from tqdm import tqdm

from vggdist.reporting.append_only_file import AppendOnlyFile

logger = logging.getLogger("vggdist")

_KEPT_LINES = 1000
_NEVER = logging.CRITICAL + 1
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
_SHORTEST_BAR = 10
"""Minimum length of the bar in characters, beside the metrics."""


class _ConsoleHandler(logging.Handler):
    """Writes each line above the progress bar, if there is one; lines that the bar shows are skipped."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "on_bar", False):
            try:
                tqdm.write(_encodable(self.format(record)), file=sys.stdout)
                sys.stdout.flush()
            except (OSError, ValueError, AttributeError):
                pass  # the console is closed; the files have the lines


class _FileHandler(logging.Handler):
    """Appends each line to a file whose disk may be full."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = AppendOnlyFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self._file.append(f"{_encodable(self.format(record))}\n".encode())

    def close(self) -> None:
        super().close()
        self._file.close()


def start_logging(rank: int) -> None:
    """Log to the console: all lines of rank 0; of other ranks only warnings and errors, with the rank.

    The lines of rank 0 are buffered for :func:`open_log`.
    """
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console = _ConsoleHandler()
    console.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"rank {rank}: %(message)s"))
    logger.addHandler(console)
    if rank == 0:
        logger.addHandler(MemoryHandler(_KEPT_LINES, flushLevel=_NEVER))


def open_log(path: Path) -> None:
    """Append rank 0's lines to a file, including those since :func:`start_logging`."""
    file = _FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in list(logger.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)
            logger.removeHandler(handler)
            handler.close()
    logger.addHandler(file)


class Console:
    """Progress of the training on the console."""

    def __init__(self, first_step: int, total_steps: int, bar: bool, work: Callable[[int], float] = float) -> None:
        """Start the progress bar.

        Args:
            bar: show a progress bar if the output is a terminal. Open MPI gives each rank a terminal, but forwards only
                complete lines, so a bar would not be visible.
            work: of the first steps, to which their time is proportional, by their number.
        """
        self._total = total_steps
        self._pace = _Pace(total_steps, work)
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            bar_format=_BAR,
            dynamic_ncols=True,
            leave=False,
            disable=not (bar and sys.stdout is not None and sys.stdout.isatty()),
            file=sys.stdout,
        )

    def advance(self, step: int) -> None:
        """Move the progress bar to the number of finished steps."""
        self._bar.update(step - self._bar.n)

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Log the metrics since the last report and the estimated remaining time, or show them on the bar."""
        loss, top1 = f"loss {metrics['train/loss']:.4f}", f"top1 {metrics['train/top1(%)']:.2f} %"
        rate, speed = f"lr {metrics['optim/learning_rate']:.5f}", f"{metrics['throughput/images_per_s']:.0f} images/s"
        left = self._pace.left(step, time.monotonic(), metrics["time/step(ms)"] / 1000)
        text = "  ".join([loss, top1, rate, speed, *([f"ETA {tqdm.format_interval(left)}"] if left else [])])
        on_bar = not self._bar.disable
        line = "step %*d/%d  epoch %.2f  %s"
        logger.info(line, len(str(self._total)), step, self._total, epoch, text, extra={"on_bar": on_bar})
        if on_bar:
            self._bar.set_postfix_str(fitting([loss, speed, top1, rate], self._bar.ncols or 80, self._total))

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float]) -> None:
        """Log an evaluation."""
        values = "  ".join(f"{key.partition('/')[2]} {value:.4g}" for key, value in metrics.items())
        logger.info("%s set after epoch %.4g (step %d):  %s", part, epoch, step, values)

    def close(self) -> None:
        """Remove the progress bar."""
        self._bar.close()


class _Pace:
    """Estimates the remaining time from the time since the first report, evaluations and checkpoints included."""

    def __init__(self, total_steps: int, work: Callable[[int], float]) -> None:
        self._total, self._work = total_steps, work
        self._first: tuple[int, float] | None = None

    def left(self, step: int, now: float, seconds_per_step: float) -> float:
        """Seconds of the remaining steps; at the first report, from ``seconds_per_step`` alone."""
        if self._first is None:
            self._first = step, now
        since, started = self._first
        seconds, since = (now - started, since) if step > since else (seconds_per_step, step - 1)
        return seconds * (self._work(self._total) - self._work(step)) / (self._work(step) - self._work(since))


def fitting(metrics: Sequence[str], columns: int, total_steps: int) -> str:
    """The first metrics, as many as leave room for the bar in the given columns."""
    around = len("100%|| / [0:00:00<00:00:00], ") + 2 * len(str(total_steps))
    chosen = ""
    for metric in metrics:
        longer = f"{chosen}  {metric}" if chosen else metric
        if around + _SHORTEST_BAR + len(longer) > columns:
            break
        chosen = longer
    return chosen


def _encodable(text: str) -> str:
    """The text with escapes for characters that UTF-8 cannot encode: bytes of a file name that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()
