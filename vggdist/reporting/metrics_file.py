"""``metrics.jsonl``: one JSON object a line, for each report and evaluation."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from vggdist.config.errors import RequestError
from vggdist.config.files import open_regular
from vggdist.reporting.append_only_file import AppendOnlyFile

logger = logging.getLogger(__name__)

_LONGEST_LINE = 2**20
"""Bytes; ours have some hundred."""


class MetricsFile(AppendOnlyFile):
    """The metrics file of a run at a step: lines of an earlier process after that step are removed."""

    def __init__(self, path: Path, step: int) -> None:
        """Truncate the file after a step. Lines that are damaged, or incomplete after a kill, are removed.

        Raises:
            RequestError: the file exists and cannot be read or truncated.
        """
        super().__init__(path)
        try:
            _truncate_after(path, step)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RequestError(f"{path} cannot be continued: {error.strerror or error}; move it away") from None

    def record(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Append a line; a metric that is not finite is null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.append(json.dumps({"step": step, "epoch": round(epoch, 6), **finite}).encode() + b"\n")


def _truncate_after(path: Path, step: int) -> None:
    kept: list[tuple[int, int]] = []  # start and end of byte ranges
    position = damaged = 0
    with open_regular(path) as file:
        for line in _lines(file):
            line_step = _step_of(line)
            damaged += line_step is None
            if line_step is not None and line_step <= step:
                if kept and kept[-1][1] == position:
                    kept[-1] = (kept[-1][0], position + len(line))
                else:
                    kept.append((position, position + len(line)))
            position += len(line)
        # Truncating needs no space: the disk may be full.
        os.truncate(path, kept[-1][1] if kept else 0)
        if len(kept) > 1 or kept and kept[0][0] > 0:
            _rewrite(path, file, kept)
    if damaged:
        logger.warning("%s: %d damaged line(s) removed", path, damaged)


def _rewrite(path: Path, file: BinaryIO, kept: list[tuple[int, int]]) -> None:
    """Replace the file by the given byte ranges; if that fails, the damaged lines between them stay."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        with temporary.open("xb") as target:
            for start, end in kept:
                file.seek(start)
                target.write(file.read(end - start))
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(path)
    except OSError as error:
        logger.warning("%s keeps its damaged lines: %s", path, error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; a line that is too long is split into parts, which are all damaged lines."""
    while line := file.readline(_LONGEST_LINE):
        yield line


def _step_of(line: bytes) -> int | None:
    """The step of a line; None if the line is damaged."""
    try:
        step = json.loads(line.decode())["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
