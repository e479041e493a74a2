"""``result.json``: the state and the outcome of a run, readable where a launcher hides the exit code; and files like it."""

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
"""Environment variable: a file that receives the exit code and the message of this command, for whoever started it."""
_MAX_BYTES = 64 * 2**20
_STATES = {0: "finished", 1: "failed", 2: "refused"}


class ResultFile:
    """The result of one job that trains a run. It says which job wrote it, and that a job has begun."""

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        """Write nothing yet.

        Args:
            job: what identifies this job: host, process, start.
        """
        self._path, self._job = path, dict(job)

    def begin(self) -> None:
        """Replace the result of an earlier job, which is kept as ``previous``; ``OSError`` where that fails."""
        earlier = read_json(self._path) or {}
        ended = earlier if earlier.get("exit_code") is not None else earlier.get("previous")
        kept = {} if ended is None else {"previous": {key: value for key, value in ended.items() if key != "previous"}}
        write_json(self._path, {"state": "running", "exit_code": None, "error": None, "job": self._job, **kept})

    def end(self, exit_code: int, error: str | None, result: Mapping[str, Any]) -> None:
        """Write how the job ended, and what it reached; ``OSError`` where that fails."""
        state = _STATES.get(exit_code, "stopped")
        write_json(self._path, {"state": state, "exit_code": exit_code, "error": error, **result, "job": self._job})


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        error: its message; empty where it succeeded.
    """

    exit_code: int
    error: str


def write_outcome(exit_code: int, error: str | None) -> None:
    """Leave the outcome for whoever started this command, where that asked for it; ``OSError`` where that fails.

    The first of the ranks' counts: the others end because of it.
    """
    if (path := os.environ.get(OUTCOME)) and read_outcome(Path(path)) is None:
        write_whole(Path(path), f"{exit_code}\n{error or ''}\n")


def read_outcome(path: Path) -> Outcome | None:
    """What :func:`write_outcome` left; None where there is nothing."""
    try:
        code, _, error = read_text(path, _MAX_BYTES).partition("\n")
        return Outcome(int(code), error.strip())
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, with ``written_at``; a number that is not finite becomes null.

    Raises:
        OSError: when the folder cannot be made or written.
    """
    written_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_whole(path, json.dumps(_finite({**content, "written_at": written_at}), indent=2))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        found = json.loads(read_text(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all; ``OSError`` where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """The value with null where a number is not finite: JSON has no nan."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
