"""Report of a run: metrics go to TensorBoard, ``metrics.jsonl`` and the console. Only that of rank 0 writes anything."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.reporting.chance_level import advice, is_at_chance
from vggdist.reporting.console import Console
from vggdist.reporting.evaluation_images import Mistake, confusion_matrix, mistakes
from vggdist.reporting.events import EventFile
from vggdist.reporting.metric_names import metric_name
from vggdist.reporting.metrics_file import MetricsFile

logger = logging.getLogger(__name__)

OnReport = Callable[[int, float, Mapping[str, float]], object]
"""Called with step, epoch and metrics."""

LOG, METRICS, EVENTS = "log.txt", "metrics.jsonl", "events.out.tfevents"
_MOST_CLASSES = 200
"""Largest confusion matrix that is drawn at each evaluation."""


def require_usable(directory: Path) -> None:
    """Check that the files of a report in a run's folder are regular files, if they exist. Changes nothing.

    Raises:
        RequestError: one is not; the message names it.
    """
    for name in (LOG, METRICS):
        if os.path.lexists(directory / name) and not (directory / name).is_file():
            raise RequestError(f"{directory / name} is not a regular file; move it away, or use another --run.name")


class Report:
    """A report that writes nothing, for the ranks above 0; base class of :class:`RunReport`."""

    @property
    def lost(self) -> dict[str, int]:
        """Number of records by file that could not be written so far; empty if there are none."""
        return {}

    def advance(self, step: int) -> None:
        """Record that a step was enqueued."""

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Record the metrics of the steps since the last report."""

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: NDArray[np.int64]) -> None:
        """Record an evaluation of one part of the data set; ``confusion`` is ``(K, K)``, a row for each true class."""

    def best(self, step: int, metric: str, value: float | None) -> None:
        """Record the best evaluation so far; None: there is none."""

    def mistakes(self, step: int, worst: Sequence[Mistake]) -> None:
        """Record the worst mistakes, the worst first."""

    def sync(self) -> None:
        """Sync the records to the disk, before a checkpoint that relies on them. Any thread may call this."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class RunReport(Report):
    """Rank 0's report: ``metrics.jsonl`` and TensorBoard's events in the run's folder, and the console.

    A disk that is full or read-only does not end the training: records are kept in memory until they can be written, within
    limits, and :attr:`lost` counts those that could not be.
    """

    def __init__(
        self,
        directory: Path,
        first_step: int,
        total_steps: int,
        class_names: Sequence[str] | None = None,
        bar: bool = False,
        on_report: OnReport | None = None,
        work: Callable[[int], float] = float,
    ) -> None:
        """Open the files.

        Args:
            first_step: current step of the run; records of an earlier process after it are removed, so that curves of a
                continued run have no duplicates.
            class_names: for pictures; None: the classes' numbers.
            bar: show a progress bar on a terminal.
            on_report: also called with each record.
            work: of the first steps, by their number (:class:`~vggdist.reporting.console.Console`).

        Raises:
            RequestError: the files of an earlier process cannot be continued.
        """
        require_usable(directory)
        self._directory, self._on_report = directory, on_report
        self._metrics = MetricsFile(directory / METRICS, first_step)
        self._events = EventFile(directory, purge_step=first_step + 1)
        self._step, self._class_names = first_step, class_names
        self._unwritten: set[str] = set()  # confusion matrices
        self._warned_of_chance = False
        self.console = Console(first_step, total_steps, bar, work)

    @property
    def lost(self) -> dict[str, int]:
        counts = {METRICS: self._metrics.lost, EVENTS: self._events.lost, **dict.fromkeys(self._unwritten, 1)}
        return {name: count for name, count in counts.items() if count}

    def record_configuration(self, configuration: str, hyper_parameters: Mapping[str, bool | float | str]) -> None:
        """Record the configuration in TensorBoard, and the hyper-parameters by which runs are compared."""
        self._events.text(self._step, "configuration", configuration)
        self._events.hyper_parameters(self._step, hyper_parameters)

    def advance(self, step: int) -> None:
        self._step = step
        self.console.advance(step)

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self._record(step, epoch, metrics)
        self.console.training(step, epoch, metrics)

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: NDArray[np.int64]) -> None:
        self._record(step, epoch, metrics)
        matrix = {"step": step, "rows": "true class", "counts": confusion.tolist()}
        self._replace(f"confusion-{part}.json", json.dumps(matrix))
        self.console.evaluation(step, epoch, part, metrics)
        if len(confusion) <= _MOST_CLASSES:
            names = self._class_names or [str(number) for number in range(len(confusion))]
            title = f"{part} set after epoch {epoch:.4g}"
            self._events.image(step, f"confusion/{part}", confusion_matrix(confusion, names, title))
        loss = metrics.get(f"{part}/loss", math.nan)
        if epoch >= 1 and not self._warned_of_chance and is_at_chance(confusion, loss):
            self._warned_of_chance = True
            logger.warning("%s", advice(loss, len(confusion)))

    def best(self, step: int, metric: str, value: float | None) -> None:
        # Without the part in the name, so that the HParams page compares runs with and without a validation part.
        if value is not None:
            self._events.scalars(step, {metric_name("best", metric): value})

    def mistakes(self, step: int, worst: Sequence[Mistake]) -> None:
        if worst:
            title = "worst mistakes: true class (blue), predicted class with its probability (red)"
            self._events.image(step, "mistakes", mistakes(worst, title))

    def sync(self) -> None:
        self._metrics.sync()

    def _record(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self._metrics.record(step, epoch, metrics)
        self._events.scalars(step, metrics)
        if self._on_report is not None:
            self._on_report(step, epoch, metrics)

    def _replace(self, name: str, text: str) -> None:
        """Replace a file atomically."""
        path, temporary = self._directory / name, self._directory / f"{name}.tmp"
        try:
            temporary.unlink(missing_ok=True)  # of a process that was killed
            with temporary.open("x") as file:
                file.write(text)
            temporary.replace(path)
            self._unwritten.discard(name)
        except OSError as error:
            if name not in self._unwritten:
                logger.warning("%s cannot be written: %s; the training continues", path, error.strerror or error)
            self._unwritten.add(name)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.console.close()
        if kind is None:
            self._events.finished(self._step)
        self._events.close()
        self._metrics.close()
