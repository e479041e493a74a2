"""A checkpoint is whole or absent; the newest whole one is used and nothing is unpickled."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from vggdist.checkpoints import store as store_module
from vggdist.checkpoints.store import Checkpoint, CheckpointStore
from vggdist.config.errors import RequestError

FILES = ("arrays.npz", "state.json", "manifest.json")


def checkpoint(step: int) -> Checkpoint:
    arrays = {
        "parameter/conv.weight": np.full((2, 3), step, np.float32),
        "optimizer/conv.weight/0": np.arange(4.0),
        "parameter/bias": np.array(step + 0.1, np.float64),
    }
    return Checkpoint(arrays, {"step": step, "metrics": {"loss": 0.1 * step}})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Three whole checkpoints: steps 10, 20 and 30."""
    made = CheckpointStore(tmp_path / "checkpoints")
    for step in (10, 20, 30):
        made.save(checkpoint(step))
    return made


def newest_step(store: CheckpointStore) -> int:
    found = store.newest()
    assert found is not None
    return int(found.state["step"])


def truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def flip_bit(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def append(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(7))


DAMAGES: list[Callable[[Path, random.Random], None]] = [truncate, flip_bit, delete, append]


def test_a_checkpoint_comes_back_bit_for_bit(store: CheckpointStore) -> None:
    found, saved = store.load(20), checkpoint(20)
    assert found.state == saved.state and set(found.arrays) == set(saved.arrays)
    for name, array in saved.arrays.items():
        assert found.arrays[name].dtype == array.dtype and np.array_equal(found.arrays[name], array)


def test_the_newest_is_used_and_folders_are_named_by_step(store: CheckpointStore) -> None:
    assert newest_step(store) == 30 and store.path(30).name == "step-00000030"
    assert sorted(path.name for path in store.path(30).iterdir()) == sorted(FILES)


def test_steps_are_ordered_as_numbers(store: CheckpointStore) -> None:
    store.save(checkpoint(123_456_789))
    assert store.steps() == [10, 20, 30, 123_456_789]


def test_without_a_folder_there_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none")
    assert store.steps() == [] and store.newest() is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(
    store: CheckpointStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: Callable[[Path, random.Random], None],
    seed: int,
) -> None:
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)
    damage(store.path(30) / name, random.Random(seed))
    with pytest.raises(RequestError, match="step-00000030"):
        store.load(30)
    assert newest_step(store) == 20 and "step-00000030" in caplog.text


def test_two_damaged_checkpoints_leave_the_third(store: CheckpointStore) -> None:
    for step in (20, 30):
        flip_bit(store.path(step) / "arrays.npz", random.Random(step))
    assert newest_step(store) == 10


def test_when_all_are_damaged_the_run_is_refused_with_a_way_out(store: CheckpointStore) -> None:
    for step in store.steps():
        delete(store.path(step) / "state.json", random.Random(0))
    with pytest.raises(RequestError, match=r"--run\.resume never"):
        store.newest()


@pytest.mark.parametrize("manifest", ["[]", "3", "null", "{}", '{"arrays.npz": 1, "state.json": 2}'])
def test_a_manifest_that_is_none_is_damage(store: CheckpointStore, manifest: str) -> None:
    (store.path(30) / "manifest.json").write_text(manifest)
    assert newest_step(store) == 20


def test_a_half_written_folder_is_ignored(store: CheckpointStore) -> None:
    store.path(30).rename(store.directory / ".step-00000040.4711")
    (store.directory / "notes").mkdir()
    assert store.steps() == [10, 20] and newest_step(store) == 20


def test_an_empty_folder_of_a_step_is_passed_over(store: CheckpointStore) -> None:
    store.path(40).mkdir()
    assert newest_step(store) == 30


def test_pruning_keeps_the_newest_and_the_best(store: CheckpointStore) -> None:
    for step in (40, 50):
        store.save(checkpoint(step))
    store.prune(keep_last=2, best_step=20)
    assert store.steps() == [20, 40, 50]


def test_pruning_keeps_no_more_when_the_best_is_among_the_newest(store: CheckpointStore) -> None:
    store.prune(keep_last=2, best_step=30)
    assert store.steps() == [20, 30]


@pytest.mark.parametrize(("keep_last", "left"), [(1, [30]), (3, [10, 20, 30]), (9, [10, 20, 30])])
def test_pruning_without_a_best_keeps_the_newest(store: CheckpointStore, keep_last: int, left: list[int]) -> None:
    store.prune(keep_last, best_step=None)
    assert store.steps() == left


def full_disk(*arguments: Any, **named: Any) -> NoReturn:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("target", ["numpy.savez", "vggdist.checkpoints.store._sync", "pathlib.Path.write_text"])
@pytest.mark.parametrize("step", [30, 40])
def test_a_failing_write_leaves_the_former(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, target: str, step: int
) -> None:
    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(target, full_disk)
        store.save(checkpoint(step))
    assert newest_step(store) == 30 and sorted(path.name for path in store.directory.iterdir()) == [
        "step-00000010",
        "step-00000020",
        "step-00000030",
    ]


def test_a_write_cut_short_leaves_the_former(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, **arrays: np.ndarray) -> None:
        path.write_bytes(b"PK\x03\x04 half of it")
        full_disk()

    with monkeypatch.context() as broken, pytest.raises(OSError):
        broken.setattr("numpy.savez", half)
        store.save(checkpoint(40))
    assert store.steps() == [10, 20, 30]


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    store.save(Checkpoint({"parameter/x": np.ones(1)}, {"step": 30}))
    assert list(store.load(30).arrays) == ["parameter/x"] and store.steps() == [10, 20, 30]


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_pickle_inside_is_refused_although_its_hash_is_right(store: CheckpointStore, tmp_path: Path) -> None:
    folder, trace = store.path(30), tmp_path / "unpickled"
    np.savez(folder / "arrays.npz", **{"parameter/x": np.array([Bomb(trace)], dtype=object)})
    manifest = {name: store_module._fingerprint(folder / name) for name in ("arrays.npz", "state.json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match="step-00000030.*allow_pickle"):
        store.load(30)
    assert newest_step(store) == 20 and not trace.exists()
