"""Checkpoints of a run for the tests: creation, comparison, damage and forgery."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tests.states import training_state
from vggdist.checkpoints import contents
from vggdist.checkpoints.contents import Checkpoint
from vggdist.checkpoints.store import CheckpointStore

FILES = ("arrays.npz", "state.json", "manifest.json")


def checkpoint(step: int, version: int = 0) -> Checkpoint:
    arrays = {
        "parameter/conv.weight": np.full((2, 3), step, np.float32),
        "optimizer/conv.weight/0": np.arange(4.0) + version,
        "parameter/bias": np.array(step + 0.1, np.float64),
        "parameter/turned": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "parameter/none": np.empty((0, 3), np.float32),
    }
    metrics: dict[str, float | None] = {"eval/loss": 0.1 * step, "eval/auc": None}
    state = training_state(step, evaluation_metrics=metrics, world_size=1 + version)
    return Checkpoint(arrays, state)


def version_of(found: Checkpoint | None) -> int:
    assert found is not None
    return found.state["world_size"] - 1


def save(store: CheckpointStore, step: int, version: int = 0) -> Path:
    made = checkpoint(step, version)
    return store.save(made.arrays.items(), made.state)


def equal(one: Checkpoint | None, other: Checkpoint) -> bool:
    """Whether two checkpoints are equal bit for bit."""
    if one is None or one.state != other.state or set(one.arrays) != set(other.arrays):
        return False
    pairs = [(array, other.arrays[name]) for name, array in one.arrays.items()]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def newest_step(store: CheckpointStore) -> int:
    found = store.newest()
    assert found is not None
    return int(found.state["step"])


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.directory.iterdir())


def sign(folder: Path) -> None:
    """Update the manifest for the files, as in a forged checkpoint."""
    manifest = {name: contents.fingerprint(folder / name) for name in ("arrays.npz", "state.json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def flip_bit(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def append(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 2000)))


def half_write(path: Path, chance: random.Random) -> None:
    """Simulate a write in progress: the file is truncated, and later files are missing."""
    truncate(path, chance)
    for name in FILES[FILES.index(path.name) + 1 :]:
        (path.parent / name).unlink()


def exchange(path: Path, chance: random.Random) -> None:
    """Replace a file by that of another checkpoint of the same run."""
    shutil.copy(path.parent.with_name("step-00000010") / path.name, path)


DAMAGES: list[Callable[[Path, random.Random], None]] = [truncate, flip_bit, delete, append, half_write, exchange]


def full_disk(*arguments: Any, **named: Any) -> NoReturn:
    raise OSError(28, "No space left on device")
