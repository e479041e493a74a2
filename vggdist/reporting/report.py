"""One place that metrics go to; from there to TensorBoard, ``metrics.jsonl`` and the console. Rank 0 alone has one."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.reporting.chance import advice, is_at_chance
from vggdist.reporting.console import Console
from vggdist.reporting.events import EventFile
from vggdist.reporting.metrics_file import MetricsFile

logger = logging.getLogger(__name__)

OnReport = Callable[[int, float, Mapping[str, float]], object]
"""Called with step, epoch and metrics."""

LOG, METRICS, TENSORBOARD = "log.txt", "metrics.jsonl", "tensorboard"


def require_usable(directory: Path) -> None:
    """Refuse a run's folder in which something else stands in the place of a report. Changes nothing.

    Raises:
        RequestError: naming it.
    """
    for name in (LOG, METRICS):
        if os.path.lexists(directory / name) and not (directory / name).is_file():
            raise RequestError(f"{directory / name} is not a regular file; move it away, or use another --run.name")
    if os.path.lexists(directory / TENSORBOARD) and not (directory / TENSORBOARD).is_dir():
        raise RequestError(f"{directory / TENSORBOARD} is not a folder; move it away, or use another --run.name")


class Report:
    """Rank 0's record of a run in its folder.

    A disk that is full or read-only does not end the training: curves and lines are kept back until they can be written,
    within limits, and :attr:`lost` says what could not be.
    """

    def __init__(
        self, directory: Path, first_step: int, total_steps: int, bar: bool = False, on_report: OnReport | None = None
    ) -> None:
        """Open the record.

        Args:
            first_step: the step at which the run stands; what an earlier process recorded after it is taken back, so
                that curves of a continued run do not double.
            bar: show a progress bar on a terminal.
            on_report: called with each record, too.

        Raises:
            RequestError: when what an earlier process recorded cannot be continued.
        """
        require_usable(directory)
        self._directory, self._on_report = directory, on_report
        self._metrics = MetricsFile(directory / METRICS, first_step)
        self._events = EventFile(directory / TENSORBOARD, purge_step=first_step + 1)
        self._unwritten: set[str] = set()  # confusion matrices
        self._warned_of_chance = False
        self.console = Console(first_step, total_steps, bar)

    @property
    def lost(self) -> dict[str, int]:
        """How many records of which file could not be written so far; empty when all is there."""
        counts = {METRICS: self._metrics.lost, TENSORBOARD: self._events.lost, **dict.fromkeys(self._unwritten, 1)}
        return {name: count for name, count in counts.items() if count}

    def advance(self, step: int) -> None:
        """Tell that a step was handed to the device."""
        self.console.advance(step)

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Record the metrics of the steps since the last report."""
        self._record(step, epoch, metrics)
        self.console.training(step, epoch, metrics)

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: np.ndarray) -> None:
        """Record an evaluation of the test or training set; ``confusion`` is ``(K, K)``, a row for each true class."""
        self._record(step, epoch, metrics)
        matrix = {"step": step, "rows": "true class", "counts": confusion.tolist()}
        self._replace(f"confusion-{part}.json", json.dumps(matrix))
        self.console.evaluation(step, epoch, part, metrics)
        loss = metrics.get(f"{part}/loss", math.nan)
        if epoch >= 1 and not self._warned_of_chance and is_at_chance(confusion, loss):
            self._warned_of_chance = True
            logger.warning("%s", advice(loss, len(confusion)))

    def sync(self) -> None:
        """Force the lines of ``metrics.jsonl`` to the disk, before a checkpoint that counts on them. For any thread."""
        self._metrics.sync()

    def _record(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self._metrics.record(step, epoch, metrics)
        self._events.scalars(step, metrics)
        if self._on_report is not None:
            self._on_report(step, epoch, metrics)

    def _replace(self, name: str, text: str) -> None:
        """Write a file of which only the newest counts, whole or not at all."""
        path, temporary = self._directory / name, self._directory / f"{name}.tmp"
        try:
            temporary.unlink(missing_ok=True)  # of a process that was killed
            with temporary.open("x") as file:
                file.write(text)
            temporary.replace(path)
            self._unwritten.discard(name)
        except OSError as error:
            if name not in self._unwritten:
                logger.warning("%s cannot be written: %s; the training goes on", path, error.strerror or error)
            self._unwritten.add(name)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.console.close()
        self._events.close()
        self._metrics.close()


class SilentReport(Report):
    """What the other ranks have: nothing is written."""

    def __init__(self) -> None:
        pass

    @property
    def lost(self) -> dict[str, int]:
        """Nothing."""
        return {}

    def advance(self, step: int) -> None:
        pass

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        pass

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: np.ndarray) -> None:
        pass

    def sync(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass
