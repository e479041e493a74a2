"""``python -m tests.ranks.elastic_rank FOLDER FLAGS...``: ``vggdist.train`` that notes what it does in ``FOLDER/<pid>.jsonl``.

Until there is a file ``FOLDER/hurry``, each step takes at least 50 ms; a process with a file ``FOLDER/hang-<pid>`` hangs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vggdist.environment import variables

variables.apply()

from vggdist.checkpoints.store import CheckpointStore  # noqa: E402
from vggdist.data.augment import Batch  # noqa: E402
from vggdist.train import main  # noqa: E402
from vggdist.training.step import TrainStep  # noqa: E402
from vggdist.training.trainer import Trainer  # noqa: E402

folder = Path(sys.argv[1])


def note(event: str, **more: Any) -> None:
    """Add a line to this process's file."""
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **more}) + "\n")


parts: dict[int, list[int]] = {}
batch_tasks, make_step, load = Trainer._batch_tasks, TrainStep.__call__, CheckpointStore.load


def noted_tasks(self: Trainer, first_step: int) -> Iterator[Any]:
    """As it is; a generation begins."""
    world = self.training.world
    note("generation", rank=world.rank, size=world.size, first_step=first_step)
    for step, task in enumerate(batch_tasks(self, first_step), first_step):
        _, samples, mask = task.args
        parts[step] = samples[mask > 0].tolist()
        yield task


def noted_step(self: TrainStep, batch: Batch, step: int, *rest: Any, **more: Any) -> Any:
    """As it is, but slower at first."""
    if not (folder / "hurry").exists():
        time.sleep(0.05)
    if (folder / f"hang-{os.getpid()}").exists():
        time.sleep(3600)
    note("step", step=step, samples=parts[step])
    return make_step(self, batch, step, *rest, **more)


def noted_load(self: CheckpointStore, step: int) -> Any:
    """As it is; a checkpoint is read from the disk."""
    note("load", step=step)
    return load(self, step)


Trainer._batch_tasks = noted_tasks  # type: ignore[method-assign, assignment]
TrainStep.__call__ = noted_step  # type: ignore[method-assign]
CheckpointStore.load = noted_load  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
