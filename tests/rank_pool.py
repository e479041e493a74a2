"""Ranks that stay alive and run one task after another, so that most tests need not start MXNet and Horovod again."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.launching import DEADLINE, Finished, Running, command_line, named
from vggdist.reporting.result import write_whole


class RankPool:
    """The ranks of one launcher and size. A task that fails or is late ends them."""

    def __init__(self, launcher: str, size: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="rank-pool-")
        self._folder, self._size, self._numbers = Path(self._directory.name), size, itertools.count()
        serve = ["-m", "tests.ranks.work", str(self._folder), str(os.getpid())]
        self._running = Running([*command_line(launcher, size), *serve], self._folder, DEADLINE)

    def call(self, function: str, cwd: Path, arguments: dict[str, Any]) -> list[Any]:
        """Run a task on every rank; returns the ranks' results in order. Fails the test when a rank raises."""
        self._running.extend(DEADLINE)
        number = next(self._numbers)
        results = [self._folder / f"{number}-{rank}.json" for rank in range(self._size)]
        task = {"function": function, "cwd": str(cwd), "arguments": arguments}
        write_whole(self._folder / f"{number}.json", json.dumps(task))
        self._running.wait_for(lambda: all(path.exists() for path in results))
        return [json.loads(path.read_text()) for path in results]

    def close(self) -> None:
        """End the ranks; fails when a process is left."""
        (self._folder / "stop").touch()
        self._running.extend(DEADLINE)
        finished = self._running.finish()
        assert finished.code == 0, finished.output
        self._directory.cleanup()


_pools: dict[tuple[str, int], RankPool] = {}


def call(
    launcher: str,
    size: int,
    function: str,
    cwd: Path,
    own_processes: bool = False,
    **arguments: Any,
) -> list[Any]:
    """Call ``tests.ranks.work.<function>(world, **arguments)`` on every rank; returns the ranks' results in order.

    Args:
        cwd: the ranks' working directory meanwhile.
        own_processes: use ranks that have run nothing before, and run nothing afterwards.
    """
    pool = None if own_processes else _pools.pop((launcher, size), None)
    pool = pool or RankPool(launcher, size)
    results = pool.call(function, cwd, arguments)  # ends the ranks where it fails: then they are not taken again
    if own_processes:
        pool.close()
    else:
        _pools[launcher, size] = pool
    return results


def command(launcher: str, size: int, name: str, cwd: Path, *arguments: str, **environment: str) -> Finished:
    """Run a command such as ``train`` on every rank, each in a process that has run others before.

    Only for commands whose ranks all return: where an error ends a rank's process, start one (:mod:`tests.launching`).
    """
    ranks = call(launcher, size, "command", cwd, name=name, words=[*arguments], environment=environment)
    (code,) = {rank["code"] for rank in ranks}
    return Finished(code, "".join(rank["output"] for rank in ranks))


def train(launcher: str, size: int, cwd: Path, *flags: str, **environment: str) -> Finished:
    """Run ``vggdist.train`` in a folder by :func:`command`; a run without a name is ``quickstart``."""
    return command(launcher, size, "train", cwd, *named(flags), **environment)


def close_all(keep_small: bool = False, keep: tuple[str | None, int | None] = (None, None)) -> None:
    """End the ranks of all pools.

    Args:
        keep_small: leave those of at most three ranks on Gloo. A rank that waits uses 6 % of a core there, two on MPI use a
            whole one.
        keep: launcher and size of a pool to leave in any case.
    """
    for launcher, size in list(_pools):
        if not (keep_small and size <= 3 and launcher != "mpirun") and (launcher, size) != keep:
            _pools.pop((launcher, size)).close()
