"""Damaged and forged checkpoints are detected, logged and skipped; nothing is unpickled, blocks or is read endlessly."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.stored import (
    DAMAGES,
    FILES,
    checkpoint,
    delete,
    equal,
    flip_bit,
    full_disk,
    names,
    newest_step,
    sign,
)
from vggdist.checkpoints.schema import FORMAT
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError

# Damage


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_no_damage_loads_wrongly_and_the_newest_whole_one_is_used(
    original: Path, tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    for seed in range(100):  # 600 cases with 6 kinds
        chance = random.Random(seed)
        store = CheckpointStore(shutil.copytree(original, tmp_path / str(seed)))
        struck = chance.choice([[30], [30], [20, 30], [20]])
        for step in struck:
            damage(store.path(step) / chance.choice(FILES), chance)
            with pytest.raises(RequestError, match=f"checkpoint file .*step-{step:08d}"):
                store.load(step)
        assert equal(store.newest(), checkpoint(max({10, 20, 30} - set(struck)))), seed


def test_every_bit_of_a_manifest_counts(store: CheckpointStore) -> None:
    manifest = store.path(30) / "manifest.json"
    content = manifest.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 500):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(bytes(flipped))
        with pytest.raises(RequestError):
            store.load(30)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_older_one_used(
    store: CheckpointStore, log: pytest.LogCaptureFixture, name: str
) -> None:
    flip_bit(store.path(30) / name, random.Random(0))
    assert newest_step(store) == 20
    assert "step-00000030/" in log.text and "looking for an older checkpoint" in log.text


def test_when_all_are_damaged_the_run_is_refused_with_a_way_out(store: CheckpointStore) -> None:
    for step in store.steps():
        delete(store.path(step) / "state.json", random.Random(0))
    with pytest.raises(RequestError, match=r"--run\.resume never --run\.overwrite true, or another --run\.name"):
        store.newest()


def test_empty_folders_files_and_other_names_are_passed_over(store: CheckpointStore) -> None:
    store.path(40).mkdir()
    store.path(50).write_text("a file where a folder should be")
    for name in ("step-0000000060", "step-٠٠٠٠٠٠٦٠", "step-60", "notes", "step-00000060.old", "step-" + "9" * 5000):
        if len(name) < 200:
            shutil.copytree(store.path(30), store.directory / name)
    assert store.steps() == [10, 20, 30, 40, 50] and newest_step(store) == 30


# Hostile files with a matching manifest


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def object_array(folder: Path, bomb: Bomb) -> None:
    np.savez(folder / "arrays.npz", **{"parameter/x": np.array([bomb], dtype=object)})


def pickled_arrays(folder: Path, bomb: Bomb) -> None:
    (folder / "arrays.npz").write_bytes(pickle.dumps(bomb))


def pickled_member(folder: Path, bomb: Bomb) -> None:
    with zipfile.ZipFile(folder / "arrays.npz", "w") as archive:
        archive.writestr("parameter/x.npy", pickle.dumps(bomb))


def pickled_state(folder: Path, bomb: Bomb) -> None:
    (folder / "state.json").write_bytes(pickle.dumps(bomb, protocol=0))


@pytest.mark.parametrize("forge", [object_array, pickled_arrays, pickled_member, pickled_state])
def test_a_pickle_is_an_error_and_not_executed(
    store: CheckpointStore, tmp_path: Path, forge: Callable[[Path, Bomb], None]
) -> None:
    trace = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # the bomb works
    trace.unlink()
    forge(store.path(30), Bomb(trace))
    sign(store.path(30))
    with pytest.raises(RequestError, match="step-00000030/(arrays.npz|state.json) is damaged"):
        store.load(30)
    assert newest_step(store) == 20 and not trace.exists()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    """The header of an npy file."""
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode()


def described(shape: str, kind: str = "'<f4'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\x93NUMPY",
        header(""),
        header("__import__('os').abort()"),
        header(described("(1000000000000000,)")) + bytes(8),
        header(described("(4294967296, 4294967296)")),
        header(described("(-1,)")) + bytes(4),
        header(described("(2,)")) + bytes(9),
        header(described("(1,)", "[('a', 'O')]")) + bytes(8),
        header(described("(2,)"), b"\x02\x00") + bytes(8),
        header(described("(" * 5000)),
        header("-" * 9000 + "1"),
    ],
)
def test_a_member_that_is_no_array_is_damage(store: CheckpointStore, member: bytes) -> None:
    with zipfile.ZipFile(store.path(30) / "arrays.npz", "w") as archive:
        archive.writestr("parameter/x.npy", member)
    sign(store.path(30))
    assert newest_step(store) == 20


def test_a_compressed_archive_which_could_unpack_to_any_size_is_damage(store: CheckpointStore) -> None:
    np.savez_compressed(store.path(30) / "arrays.npz", **{"parameter/x": np.zeros(1_000_000)})
    sign(store.path(30))
    with pytest.raises(RequestError, match="arrays.npz is damaged: parameter/x.npy is compressed"):
        store.load(30)


@pytest.mark.parametrize(
    "state",
    [
        "[]",
        "30",
        "null",
        "{}",
        '{"step": "30"}',
        '{"step": 30.0}',
        '{"step": true}',
        '{"step": null}',
        '{"step": 20}',
        '{"step": -30}',
        f'{{"step": 1{"0" * 400}}}',
        f'{{"step": 1{"0" * 9000}}}',
        '{"step": 30, "loss": NaN}',
        '{"step": 30, "loss": -Infinity}',
        '{"step": 30, "loss": 1e999}',
        "[" * 200_000,
        "\xff",
        "",
    ],
)
def test_a_state_of_the_wrong_shape_is_damage_although_its_hash_is_right(store: CheckpointStore, state: str) -> None:
    (store.path(30) / "state.json").write_text(state, "latin-1")
    sign(store.path(30))
    with pytest.raises(RequestError, match="step-00000030/state.json is damaged: .+") as caught:
        store.load(30)
    assert len(str(caught.value)) < 500 and newest_step(store) == 20


@pytest.mark.parametrize("manifest", ["[]", "3", "null", "{}", "NaN", "[" * 10_000])
@pytest.mark.parametrize("as_part", [False, True])
def test_a_manifest_of_the_wrong_shape_is_damage(store: CheckpointStore, manifest: str, as_part: bool) -> None:
    path = store.path(30) / "manifest.json"
    right = json.loads(path.read_text())
    text = f'{{"arrays.npz": {manifest}, "state.json": {json.dumps(right["state.json"])}}}' if as_part else manifest
    path.write_text(text)
    store.prune(keep_last=9, keep_every=0, best_step=None)
    with pytest.raises(RequestError, match="step-00000030/manifest.json is damaged"):
        store.load(30)
    assert newest_step(store) == 20


def test_a_state_with_a_value_that_is_not_finite_is_not_written(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="nan"):
        store.save([], {"step": 40, "loss": float("nan")})
    assert names(store) == ["latest", "step-00000010", "step-00000020", "step-00000030"]


def test_an_array_of_objects_is_not_written(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="[Oo]bject"):
        store.save([("parameter/x", np.array([object()]))], {"step": 40})
    assert newest_step(store) == 30


def test_a_state_that_lacks_what_a_run_needs_is_damage_and_the_key_is_named(store: CheckpointStore) -> None:
    path = store.path(30) / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "interval": {**state["interval"], "hits": ["x"]}}))
    sign(store.path(30))
    with pytest.raises(RequestError, match=r"state.json is damaged: interval.hits.0 is 'x'; expected a valid number"):
        store.load(30)
    assert newest_step(store) == 20


def test_a_checkpoint_of_another_version_is_not_passed_over(store: CheckpointStore) -> None:
    for number in (FORMAT + 1, 10**4000):
        (store.path(30) / "state.json").write_text(f'{{"step": 30, "format": {number}}}')
        sign(store.path(30))
        with pytest.raises(RequestError, match=r"written by another version of vggdist \(format .*--run.name") as caught:
            store.newest()
        assert len(str(caught.value)) < 500
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert store.steps() == [30]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.0, np.nan], np.float32),
        np.array([np.inf], np.float16),
        np.array(["a"]),
        np.array([b"a"]),
        np.array([True]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.array([1], "timedelta64[s]"),
        np.zeros(1, [("a", "<f4")]),
        np.zeros(1, complex),
        np.zeros(1, "V4"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_an_array_of_anything_but_finite_numbers_is_damage(store: CheckpointStore, array: np.ndarray) -> None:
    np.savez(store.path(30) / "arrays.npz", **{"parameter/x": array})
    sign(store.path(30))
    with pytest.raises(RequestError, match="arrays.npz is damaged: parameter/x.npy (contains|has values that are not finite)"):
        store.load(30)


def overlapping(path: Path, members: int) -> None:
    """An archive whose directory lists the same bytes many times."""
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("parameter/0.npy", "w") as member:
            np.lib.format.write_array(member, np.zeros(250_000, np.float32))
        first = archive.infolist()[0]
        for number in range(1, members):
            again = copy.copy(first)
            again.filename = f"parameter/{number}.npy"
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again


def test_members_that_overlap_do_not_take_more_memory_than_the_file_has_bytes(store: CheckpointStore) -> None:
    """A thousand names of one megabyte."""
    overlapping(store.path(30) / "arrays.npz", 1000)
    sign(store.path(30))
    tracemalloc.start()
    with pytest.raises(RequestError, match="arrays.npz is damaged: its members overlap"):
        store.load(30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_a_name_that_occurs_twice_is_damage(store: CheckpointStore) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(store.path(30) / "arrays.npz", "w") as archive:
        for _ in range(2):
            archive.writestr("parameter/0.npy", header(described("(1,)")) + bytes(4))
        archive.writestr("padding", bytes(1000))
    sign(store.path(30))
    with pytest.raises(RequestError, match="arrays.npz is damaged: its members overlap"):
        store.load(30)


def test_a_directory_of_more_entries_than_any_network_has_arrays_is_not_read(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZipFile", full_disk)  # it would create objects for all entries
    with (store.path(30) / "arrays.npz").open("ab") as file:
        start = file.tell()
        file.write(bytes(5 * 2**20))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 5 * 2**20, start, 0))
    sign(store.path(30))
    with pytest.raises(RequestError, match="arrays.npz is damaged: its directory is too long"):
        store.load(30)


# Not regular files


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def device(path: Path) -> None:
    path.symlink_to("/dev/tty")


def folder(path: Path) -> None:
    path.mkdir()


def itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [fifo, endless, device, folder, itself])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file_is_neither_waited_for_nor_read(
    store: CheckpointStore, name: str, make: Callable[[Path], None]
) -> None:
    (store.path(30) / name).unlink()
    make(store.path(30) / name)
    assert newest_step(store) == 20 and store.complete_steps() == [10, 20]
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert store.steps() == [20, 30]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [fifo, endless, device, folder, itself])
def test_a_pointer_that_is_no_regular_file_is_reported_and_the_newest_used(
    store: CheckpointStore, log: pytest.LogCaptureFixture, make: Callable[[Path], None]
) -> None:
    (store.directory / "latest").unlink()
    make(store.directory / "latest")
    assert newest_step(store) == 30 and "latest cannot be read" in log.text


def test_a_manifest_of_any_size_is_not_read(store: CheckpointStore) -> None:
    with (store.path(30) / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    assert newest_step(store) == 20


def test_links_to_the_files_of_a_checkpoint_are_followed(store: CheckpointStore, tmp_path: Path) -> None:
    for name in FILES:
        (store.path(30) / name).rename(tmp_path / name)
        (store.path(30) / name).symlink_to(tmp_path / name)
    assert equal(store.newest(), checkpoint(30))
