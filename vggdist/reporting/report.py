"""One place that metrics go to; from there to TensorBoard, ``metrics.jsonl`` and the console. Rank 0 alone has one."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from vggdist.reporting.console import Console


class Report:
    """Rank 0's record of a run in its folder."""

    def __init__(self, directory: Path, first_step: int, total_steps: int, bar: bool = False) -> None:
        """Open the record.

        Args:
            first_step: the step at which the run stands; what an earlier process recorded after it is taken back, so
                that curves of a continued run do not double.
            bar: show a progress bar on a terminal.
        """
        self._metrics = directory / "metrics.jsonl"
        _cut_after(self._metrics, first_step)
        self._lines = self._metrics.open("a")
        # Two files of one second would have one name: an elastic run can begin anew as fast.
        suffix = f".{os.getpid()}.{first_step}"
        self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1, filename_suffix=suffix)
        self.console = Console(first_step, total_steps, bar)

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
        with self._metrics.with_name(f"confusion-{part}.json").open("w") as file:
            json.dump({"step": step, "rows": "true class", "counts": confusion.tolist()}, file)
        self.console.evaluation(step, epoch, part, metrics)

    def _record(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        self._lines.write(json.dumps({"step": step, "epoch": round(epoch, 6), **finite}) + "\n")
        self._lines.flush()
        for key, value in metrics.items():
            # add_scalar would write the tag train/top1(%) as train/top1___.
            scalar = Summary(value=[Summary.Value(tag=key, simple_value=value)])
            self._tensorboard.file_writer.add_summary(scalar, step)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.console.close()
        self._tensorboard.close()
        self._lines.close()


class SilentReport(Report):
    """What the other ranks have: nothing is written."""

    def __init__(self) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        pass

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: np.ndarray) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


def _cut_after(path: Path, step: int) -> None:
    """Keep the lines of a metrics file up to a step; a last line that a crash cut short goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
