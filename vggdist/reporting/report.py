"""One place that metrics go to; from there to TensorBoard, ``metrics.jsonl`` and the console. Rank 0 alone has one."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

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
"""Of a confusion matrix that is drawn at each evaluation."""


def require_usable(directory: Path) -> None:
    """Refuse a run's folder in which something else stands in the place of a report. Changes nothing.

    Raises:
        RequestError: naming it.
    """
    for name in (LOG, METRICS):
        if os.path.lexists(directory / name) and not (directory / name).is_file():
            raise RequestError(f"{directory / name} is not a regular file; move it away, or use another --run.name")


class Report:
    """Where the metrics of a run go. This one records nothing: it is what the ranks above 0 have."""

    @property
    def lost(self) -> dict[str, int]:
        """How many records of which file could not be written so far; empty when all is there."""
        return {}

    def advance(self, step: int) -> None:
        """Record that a step was handed to the device."""

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Record the metrics of the steps since the last report."""

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: np.ndarray) -> None:
        """Record an evaluation of one part of the data set; ``confusion`` is ``(K, K)``, a row for each true class."""

    def best(self, step: int, metric: str, value: float | None) -> None:
        """Record the best evaluation so far; None: there is none."""

    def mistakes(self, step: int, found: Sequence[Mistake]) -> None:
        """Record what a network is most wrong about, the worst first."""

    def sync(self) -> None:
        """Force what was recorded to the disk, before a checkpoint that counts on it. For any thread."""

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class RunReport(Report):
    """Rank 0's record of a run: ``metrics.jsonl`` and TensorBoard's events in its folder, and the console.

    A disk that is full or read-only does not end the training: curves and lines are kept back until they can be written,
    within limits, and :attr:`lost` says what could not be.
    """

    def __init__(
        self,
        directory: Path,
        first_step: int,
        total_steps: int,
        class_names: Sequence[str] | None = None,
        bar: bool = False,
        on_report: OnReport | None = None,
    ) -> None:
        """Open the record.

        Args:
            first_step: the step at which the run stands; what an earlier process recorded after it is taken back, so
                that curves of a continued run do not double.
            class_names: for pictures; None: the classes' numbers.
            bar: show a progress bar on a terminal.
            on_report: called with each record, too.

        Raises:
            RequestError: when what an earlier process recorded cannot be continued.
        """
        require_usable(directory)
        self._directory, self._on_report = directory, on_report
        self._metrics = MetricsFile(directory / METRICS, first_step)
        self._events = EventFile(directory, purge_step=first_step + 1)
        self._step, self._class_names = first_step, class_names
        self._unwritten: set[str] = set()  # confusion matrices
        self._warned_of_chance = False
        self.console = Console(first_step, total_steps, bar)

    @property
    def lost(self) -> dict[str, int]:
        counts = {METRICS: self._metrics.lost, EVENTS: self._events.lost, **dict.fromkeys(self._unwritten, 1)}
        return {name: count for name, count in counts.items() if count}

    def introduce(self, configuration: str, hyper_parameters: Mapping[str, bool | float | str]) -> None:
        """Show in TensorBoard what is trained: the whole configuration, and that by which runs are compared."""
        self._events.text(self._step, "configuration", configuration)
        self._events.hyper_parameters(self._step, hyper_parameters)

    def advance(self, step: int) -> None:
        self._step = step
        self.console.advance(step)

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self._record(step, epoch, metrics)
        self.console.training(step, epoch, metrics)

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: np.ndarray) -> None:
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
        # The name does not contain the part, so that the HParams page compares runs with and without a validation part.
        if value is not None:
            self._events.scalars(step, {metric_name("best", metric): value})

    def mistakes(self, step: int, found: Sequence[Mistake]) -> None:
        if found:
            title = "worst mistakes: true class (blue), predicted class with its probability (red)"
            self._events.image(step, "mistakes", mistakes(found, title))

    def sync(self) -> None:
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.console.close()
        if kind is None:
            self._events.finished(self._step)
        self._events.close()
        self._metrics.close()
