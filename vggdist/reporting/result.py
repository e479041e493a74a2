"""``result.json``: state and outcome of a run, for when a launcher hides the exit code; and other JSON results."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggdist.config.files import read_text

OUTCOME = "VGGDIST_OUTCOME"
"""Environment variable: a file that this command writes its exit code and message to, for the process that started it."""
_MAX_BYTES = 64 * 2**20
_STATES = {0: "finished", 1: "failed", 2: "refused"}


class ResultFile:
    """The result of one job that trains a run. It identifies the job, and is written at its start and its end."""

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        """Store path and job; nothing is written yet.

        Args:
            job: identifies this job: host, process, start.
        """
        self._path, self._job = path, dict(job)

    def begin(self) -> None:
        """Replace the result of an earlier job, which is kept as ``previous``; raises ``OSError``."""
        earlier = read_json(self._path) or {}
        ended = earlier if earlier.get("exit_code") is not None else earlier.get("previous")
        kept = {} if ended is None else {"previous": {key: value for key, value in ended.items() if key != "previous"}}
        write_json(self._path, {"state": "running", "exit_code": None, "error": None, "job": self._job, **kept})

    def end(self, exit_code: int, error: str | None, result: Mapping[str, Any]) -> None:
        """Write how the job ended, and its result; raises ``OSError``."""
        state = _STATES.get(exit_code, "stopped")
        write_json(self._path, {"state": state, "exit_code": exit_code, "error": error, **result, "job": self._job})


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        error: its message; empty if it succeeded.
    """

    exit_code: int
    error: str


def write_outcome(exit_code: int, error: str | None) -> None:
    """Write the outcome for the process that started this command, if it set :data:`OUTCOME`; raises ``OSError``.

    Only the first rank to end writes it: the others end because of that one.
    """
    if (path := os.environ.get(OUTCOME)) and read_outcome(Path(path)) is None:
        write_whole(Path(path), f"{exit_code}\n{error or ''}\n")


def read_outcome(path: Path) -> Outcome | None:
    """The outcome that :func:`write_outcome` wrote; None if there is none."""
    try:
        code, _, error = read_text(path, _MAX_BYTES).partition("\n")
        return Outcome(int(code), error.strip())
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with ``written_at``; a number that is not finite becomes null.

    Raises:
        OSError: the folder cannot be created or written.
    """
    written_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_whole(path, json.dumps(_finite({**content, "written_at": written_at}), indent=2))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if it cannot be read."""
    try:
        content = json.loads(read_text(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically; raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """The value with None for each number that is not finite: JSON has no nan."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
