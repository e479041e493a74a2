"""How a command ends: one message, ``result.json``, the exit code, and no rank left behind."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vggdist.config.errors import VggdistError
from vggdist.reporting.result import write_result
from vggdist.world.topology import from_environment


def end(command: Callable[[], dict[str, Any]], directory: Path, file: str = "result.json") -> int:
    """Run a command and turn its outcome into an exit code.

    An error that all ranks agree on is told by rank 0 alone; the others leave after it. Any other error is told by the rank
    that has it, and this process ends at once, so that the launcher ends the rest.

    Args:
        directory: where rank 0 writes the result.
        file: the result's name there.
    """
    rank = from_environment(os.environ).rank
    try:
        result = command()
    except VggdistError as error:
        return _end_with(error, rank, directory / file)
    except KeyboardInterrupt:
        _leave(f"rank {rank}: interrupted", 1)
    except Exception:
        told = f"rank {rank} failed:\n{traceback.format_exc()}"
        _record(directory / file, 1, told)
        _leave(told, 1)
    if rank == 0:
        _record(directory / file, 0, None, result)
    return 0


def _end_with(error: VggdistError, rank: int, path: Path) -> int:
    alone = from_environment(os.environ).size == 1
    if rank == 0 or not error.agreed:
        told = str(error) if alone or error.agreed else f"rank {rank}: {error}"
        _record(path, error.exit_code, told)
        print(f"vggdist: {told}", file=sys.stderr, flush=True)
    if error.agreed and not alone:
        from vggdist.world.process import World

        World().barrier()  # a launcher kills the other ranks when the first leaves: rank 0 must have written by then
    if not error.agreed and not alone:
        _leave("", error.exit_code)
    return error.exit_code


def _record(path: Path, exit_code: int, error: str | None, result: dict[str, Any] | None = None) -> None:
    try:
        write_result(path.parent, {"exit_code": exit_code, "error": error, **(result or {})}, path.name)
    except OSError as failure:
        print(f"vggdist: cannot write {path}: {failure}", file=sys.stderr, flush=True)


def _leave(message: str, exit_code: int) -> NoReturn:
    """End this process without the farewells of Horovod and MXNet, which can wait for ranks that will not answer."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(exit_code)
