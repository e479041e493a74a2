"""State and metrics of a run from the files in its folder, even if some are damaged. Read-only; without MXNet."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from vggdist.config.errors import RequestError
from vggdist.config.files import open_regular, read_text
from vggdist.config.yaml_file import MAX_BYTES, parse_file
from vggdist.reporting.metric_names import LOWER_IS_BETTER, metric_name
from vggdist.reporting.result import read_json

CONFIGURATION = "config.yaml"
_METRICS, _RESULT = "metrics.jsonl", "result.json"
_SPEED, _PARTS = "throughput/images_per_s", ("validation", "eval")
_MOST_BYTES, _LONGEST_LINE = 64 * 2**20, 2**20
"""Limits of metrics.jsonl: only the end of a larger file is read."""
_LONGEST_POINTER = 1000
_REPORTS = 20
"""Number of reports whose median is the speed."""


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run; unknown values are None.

    Attributes:
        path: the folder.
        state: of the newest job: ``finished``, ``failed``, ``stopped``, ``refused``, ``running``, ``died`` (its process is
            gone without a result), or ``running?`` (it ran on another host, whose processes are not visible here).
        step, total_steps: finished steps, and steps of the whole run.
        best_metric: name with its part, such as ``eval/top1(%)``.
        best_value, best_step: of the best evaluation.
        images_per_s: median of the newest reports.
        changed: modification time of the newest of its files, in seconds since 1970.
        metrics: the newest value of each.
        result: content of ``result.json``; empty if it cannot be read.
    """

    path: Path
    state: str | None
    step: int | None
    total_steps: int | None
    best_metric: str | None
    best_value: float | None
    best_step: int | None
    images_per_s: float | None
    changed: float | None
    metrics: Mapping[str, float]
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def age(self) -> float | None:
        """Seconds since the newest of its files changed."""
        return None if self.changed is None else max(0.0, time.time() - self.changed)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run: it has at least two of the files that a training writes."""
    names = (CONFIGURATION, _METRICS, _RESULT, "log.txt", "checkpoints")
    return sum(os.path.lexists(path / name) for name in names) >= 2


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs in a folder, or the folder itself if it is that of a run.

    Raises:
        RequestError: the folder cannot be read.
    """
    if is_run(folder):
        return [folder]
    try:
        return sorted(path for path in folder.iterdir() if is_run(path))
    except OSError as error:
        raise RequestError(f"{folder}: {error.strerror}; name a folder of runs") from None


def settings(path: Path) -> dict[str, Any]:
    """The configuration of a run by key.

    Raises:
        RequestError: it cannot be read.
    """
    file = path / CONFIGURATION
    try:
        entries = parse_file(read_text(file, MAX_BYTES), str(file))
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror}") from None
    return {f"{entry.section}.{entry.name}": entry.value for entry in entries}


def read_run(path: Path) -> RunRecord:
    """Read the files of a run; damaged and missing ones are ignored."""
    result, history = read_json(path / _RESULT) or {}, _History()
    with contextlib.suppress(OSError), open_regular(path / _METRICS) as file:
        for line in _lines(file):
            history.add(line)
    configured: dict[str, Any] = {}
    with contextlib.suppress(RequestError):
        configured = settings(path)
    ended = result if result.get("exit_code") is not None else {}
    step = _newest([_number(ended.get("step"), int), history.step, _step_of_checkpoint(path)])
    metric, value, at = _best(ended, history, configured)
    return RunRecord(
        path=path,
        state=_state(result),
        step=step,
        total_steps=_total_steps(configured, history),
        best_metric=metric,
        best_value=value,
        best_step=at,
        images_per_s=history.images_per_s,
        changed=_newest([_changed(path / name) for name in (_RESULT, _METRICS, CONFIGURATION)]),
        metrics=history.newest,
        result=ended,
    )


class _History:
    """Summary of the lines of ``metrics.jsonl``."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.steps_per_epoch: int | None = None
        self.newest: dict[str, float] = {}
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self._speeds: list[float] = []

    def add(self, line: Mapping[str, Any]) -> None:
        step, epoch = _number(line.get("step"), int), _number(line.get("epoch"))
        if step is None:
            return
        self.step = step
        if epoch:
            self.steps_per_epoch = round(step / epoch)
        values = {key: value for key, value in line.items() if "/" in key and _number(value) is not None}
        self.newest.update(values)
        if _SPEED in values:
            self._speeds = [*self._speeds[1 - _REPORTS :], values[_SPEED]]
        if any(key.partition("/")[0] in _PARTS for key in values):
            self.evaluations.append((step, values))

    @property
    def images_per_s(self) -> float | None:
        return statistics.median(self._speeds) if self._speeds else None

    def best(self, metric: str) -> tuple[str | None, float | None, int | None]:
        """Name, value and step of the best evaluation, of the validation part if there is one."""
        for name in (metric_name(part, metric) for part in _PARTS):
            candidates = [(values[name], -step) for step, values in self.evaluations if name in values]
            if candidates:
                sign = -1 if metric in LOWER_IS_BETTER else 1
                value, step = max(candidates, key=lambda one: (sign * one[0], one[1]))
                return name, value, -step
        return None, None, None


def _lines(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """The JSON objects in the lines of a file; damaged lines are skipped."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _MOST_BYTES))
    while line := file.readline(_LONGEST_LINE):
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            if isinstance(content, dict):
                yield content


def _step_of_checkpoint(path: Path) -> int | None:
    """The step of the newest checkpoint, from the file ``latest``."""
    try:
        match = re.fullmatch(r"step-(\d{1,15})", read_text(path / "checkpoints" / "latest", _LONGEST_POINTER).strip())
    except OSError:
        return None
    return int(match[1]) if match else None


def _best(
    ended: Mapping[str, Any], history: _History, configured: Mapping[str, Any]
) -> tuple[str | None, float | None, int | None]:
    best = ended.get("best")
    if isinstance(best, dict) and isinstance(best.get("metric"), str) and _number(best.get("value")) is not None:
        part = best.get("part") if isinstance(best.get("part"), str) else "eval"  # of an earlier version
        return metric_name(str(part), best["metric"]), best["value"], _number(best.get("step"), int)
    metric = configured.get("checkpoint.best_metric", "top1")
    return history.best(metric if isinstance(metric, str) else "top1")


def _total_steps(configured: Mapping[str, Any], history: _History) -> int | None:
    if (steps := _number(configured.get("train.steps"), int)) is not None:
        return steps
    epochs, steps_per_epoch = _number(configured.get("train.epochs")), history.steps_per_epoch
    if epochs is None or not steps_per_epoch:
        return None
    return max(1, math.ceil(round(epochs * steps_per_epoch, 6)))  # as vggdist.training.triggers counts


def _state(result: Mapping[str, Any]) -> str | None:
    state, job = result.get("state"), result.get("job")
    if state != "running" or not isinstance(job, dict):
        return state if isinstance(state, str) else None
    if job.get("host") != socket.gethostname():
        return "running?"
    return "running" if _is_alive(job) else "died"


def _is_alive(job: Mapping[str, Any]) -> bool:
    """Whether the process of a job on this host is alive; a later process with the same number has another start time."""
    try:
        process = psutil.Process(job["process"])
        # Within two seconds: it is computed from the boot time, which the system corrects now and then.
        moments = (time.gmtime(process.create_time() + shift) for shift in (-2, -1, 0, 1, 2))
        started = {time.strftime("%Y-%m-%dT%H:%M:%SZ", moment) for moment in moments}
        return job["started_at"] in started and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _newest(values: list[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _number(value: Any, kind: type = float) -> Any:
    """A value from JSON or YAML if it is a number of that kind, else None."""
    kinds = (int,) if kind is int else (int, float)
    sound = isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < 1e300
    return value if sound else None
