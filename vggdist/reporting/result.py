"""``result.json``: how a run ended, readable where a launcher hides the exit code."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

REFUSED = 2


def write_result(directory: Path, result: dict[str, Any]) -> None:
    """Write ``result.json`` whole or not at all.

    A refused request (exit code 2) does not replace the result of a run that took place: that one stays in it, under
    ``"previous"``.

    Args:
        result: at least ``exit_code``.

    Raises:
        OSError: when the folder cannot be written.
    """
    path = directory / "result.json"
    if result["exit_code"] == REFUSED:
        earlier = read_result(directory)
        if earlier is not None and earlier.get("exit_code") == REFUSED:
            earlier = earlier.get("previous")
        if earlier is not None:
            result = {**result, "previous": earlier}
    directory.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"result.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({**result, "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}, indent=2))
    temporary.replace(path)


def read_result(directory: Path) -> dict[str, Any] | None:
    """The result of a run, or nothing where there is none that can be read."""
    try:
        found = json.loads((directory / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
