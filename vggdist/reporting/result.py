"""``result.json``: how a command ended, readable where a launcher hides the exit code."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

REFUSED = 2


def write_result(directory: Path, result: dict[str, Any], name: str = "result.json") -> None:
    """Write a result whole or not at all.

    A refused request (exit code 2) does not replace the result of a run that took place: that one stays in it, under
    ``"previous"``.

    Args:
        result: at least ``exit_code``.

    Raises:
        OSError: when the folder cannot be written.
    """
    path = directory / name
    if result["exit_code"] == REFUSED:
        earlier = read_result(directory, name)
        if earlier is not None and earlier.get("exit_code") == REFUSED:
            earlier = earlier.get("previous")
        if earlier is not None:
            result = {**result, "previous": earlier}
    directory.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{name}.{os.getpid()}.tmp")
    written_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    temporary.write_text(json.dumps(_finite({**result, "written_at": written_at}), indent=2))
    temporary.replace(path)


def _finite(value: Any) -> Any:
    """The value with null where a number is not finite: JSON has no nan."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(directory: Path, name: str = "result.json") -> dict[str, Any] | None:
    """An earlier result, or nothing where there is none that can be read."""
    try:
        found = json.loads((directory / name).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
