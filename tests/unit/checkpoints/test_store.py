"""A checkpoint is whole or absent; the newest whole one is used and nothing is unpickled."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import random
import resource
import shutil
import stat
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tests.disks import small_disk
from tests.states import training_state
from vggdist.checkpoints import contents
from vggdist.checkpoints import store as store_module
from vggdist.checkpoints.contents import Checkpoint
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError

FILES = ("arrays.npz", "state.json", "manifest.json")


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, also after another test has started the package's own logging."""
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)
    return caplog


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
    """Whether two checkpoints are the same to the last bit."""
    if one is None or one.state != other.state or set(one.arrays) != set(other.arrays):
        return False
    pairs = [(array, other.arrays[name]) for name, array in one.arrays.items()]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three whole checkpoints: steps 10, 20 and 30."""
    directory = tmp_path_factory.mktemp("original") / "checkpoints"
    for step in (10, 20, 30):
        save(CheckpointStore(directory), step)
    return directory


@pytest.fixture
def store(original: Path, tmp_path: Path) -> CheckpointStore:
    """A copy of the three whole checkpoints."""
    return CheckpointStore(shutil.copytree(original, tmp_path / "checkpoints"))


def newest_step(store: CheckpointStore) -> int:
    found = store.newest()
    assert found is not None
    return int(found.state["step"])


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.directory.iterdir())


def sign(folder: Path) -> None:
    """Make the manifest fit the files, as one who forges a checkpoint would."""
    manifest = {name: contents.fingerprint(folder / name) for name in ("arrays.npz", "state.json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))


# What comes back


def test_a_checkpoint_comes_back_bit_for_bit(store: CheckpointStore) -> None:
    assert equal(store.load(20), checkpoint(20))


def test_numpy_alone_reads_the_arrays(store: CheckpointStore) -> None:
    with np.load(store.path(20) / "arrays.npz", allow_pickle=False) as stored:
        assert equal(Checkpoint({name: stored[name] for name in stored.files}, checkpoint(20).state), checkpoint(20))


def test_equal_checkpoints_are_equal_files(store: CheckpointStore, tmp_path: Path) -> None:
    again = save(CheckpointStore(tmp_path / "again"), 20)
    assert all((again / name).read_bytes() == (store.path(20) / name).read_bytes() for name in FILES)


def test_arrays_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.remove(1)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for number in range(5):
            array = np.full(3, number).view(Counted)
            alive.append(1)
            assert len(alive) <= 2  # this one, and the former until it is replaced
            yield f"parameter/{number}", array
            del array

    store = CheckpointStore(tmp_path / "new" / "checkpoints")
    store.save(arrays(), training_state(1))
    assert [array[0] for array in store.load(1).arrays.values()] == [0, 1, 2, 3, 4]


def test_the_newest_is_used_and_folders_are_named_by_step(store: CheckpointStore) -> None:
    assert newest_step(store) == 30 and store.path(30).name == "step-00000030"
    assert sorted(path.name for path in store.path(30).iterdir()) == sorted(FILES)


def test_steps_are_ordered_as_numbers(store: CheckpointStore) -> None:
    save(store, 123_456_789)
    assert store.steps() == [10, 20, 30, 123_456_789] and newest_step(store) == 123_456_789


def test_without_a_folder_there_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none")
    store.tidy()
    store.prune(1, 0, None)
    assert store.steps() == [] and store.newest() is None


def test_the_group_may_read_a_checkpoint_when_the_umask_allows_it(tmp_path: Path) -> None:
    former = os.umask(0o022)
    try:
        folder = save(CheckpointStore(tmp_path / "checkpoints"), 1)
    finally:
        os.umask(former)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755 and modes == {0o644}


def test_files_folders_and_pointer_are_synced_in_the_order_in_which_they_must_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, events = CheckpointStore(tmp_path / "checkpoints"), []
    for module in (contents, store_module):
        monkeypatch.setattr(module, "sync", lambda path: events.append(path.name.split(".writing")[0]))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda source, target: (events.append("rename"), rename(source, target)))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (events.append("replace"), replace(source, target)))
    save(store, 10)
    before = [tmp_path.name, *FILES, ".step-00000010"]
    assert events == [*before, "rename", "checkpoints", ".latest", "replace", "checkpoints"]


# The pointer


def test_the_pointer_names_what_was_saved_last(store: CheckpointStore) -> None:
    assert (store.directory / "latest").read_text() == "step-00000030\n"
    save(store, 20)
    assert (store.directory / "latest").read_text() == "step-00000020\n"


@pytest.mark.parametrize("text", ["step-00000040\n", "", "../elsewhere", "\0", "x" * 10_000])
def test_a_pointer_to_nothing_is_told_and_the_newest_used(
    store: CheckpointStore, text: str, log: pytest.LogCaptureFixture
) -> None:
    (store.directory / "latest").write_text(text)
    assert newest_step(store) == 30
    assert "latest names" in log.text and repr(text.strip())[:20] in log.text and len(log.text) < 1000


def test_a_pointer_that_cannot_be_read_is_told_and_the_newest_used(
    store: CheckpointStore, log: pytest.LogCaptureFixture
) -> None:
    (store.directory / "latest").write_bytes(b"\xff\xfe")
    assert newest_step(store) == 30 and "latest cannot be read" in log.text


def test_a_pointer_alone_is_a_trace_of_a_lost_checkpoint(store: CheckpointStore) -> None:
    for step in store.steps():
        shutil.rmtree(store.path(step))
    with pytest.raises(RequestError, match=r"no checkpoint in .* is whole; start anew with --run\.resume never"):
        store.newest()


def test_a_checkpoint_newer_than_the_pointer_is_used(store: CheckpointStore, log: pytest.LogCaptureFixture) -> None:
    (store.directory / "latest").write_text("step-00000020\n")
    assert newest_step(store) == 30 and not log.text


# Damage


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
    """The file was being written: what comes after it is not there yet."""
    truncate(path, chance)
    for name in FILES[FILES.index(path.name) + 1 :]:
        (path.parent / name).unlink()


def exchange(path: Path, chance: random.Random) -> None:
    """A file of another checkpoint of the same run."""
    shutil.copy(path.parent.with_name("step-00000010") / path.name, path)


DAMAGES: list[Callable[[Path, random.Random], None]] = [truncate, flip_bit, delete, append, half_write, exchange]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_no_damage_loads_wrongly_and_the_newest_whole_one_is_used(
    original: Path, tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    for seed in range(100):  # with 6 kinds 600 damages
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


# Hostile files, signed with a manifest that fits


class Bomb:
    """Leaves a file when it is unpickled."""

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
    """The beginning of an npy file."""
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
    with pytest.raises(RequestError, match=r"state.json is damaged: interval.hits\[0\] is \"x\"; expected a number"):
        store.load(30)
    assert newest_step(store) == 20


def test_a_checkpoint_of_another_version_is_not_passed_over(store: CheckpointStore) -> None:
    for number in (3, 10**4000):
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
    with pytest.raises(RequestError, match="arrays.npz is damaged: parameter/x.npy (holds|has values that are not finite)"):
        store.load(30)


def overlapping(path: Path, members: int) -> None:
    """An archive whose directory names the same bytes many times."""
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
    monkeypatch.setattr(zipfile, "ZipFile", full_disk)  # it would make objects of all entries
    with (store.path(30) / "arrays.npz").open("ab") as file:
        start = file.tell()
        file.write(bytes(5 * 2**20))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 5 * 2**20, start, 0))
    sign(store.path(30))
    with pytest.raises(RequestError, match="arrays.npz is damaged: its directory is too long"):
        store.load(30)


# What is no regular file


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
    assert newest_step(store) == 20 and store.whole_steps() == [10, 20]
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert store.steps() == [20, 30]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [fifo, endless, device, folder, itself])
def test_a_pointer_that_is_no_regular_file_is_told_and_the_newest_used(
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


# Kills


class Kill(BaseException):
    """The process is gone: nothing handles it."""


class Machine:
    """Counts what a process does to the disk and ends it before the n-th action; a dead process does nothing more."""

    ACTIONS = ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir")

    def __init__(self, patch: pytest.MonkeyPatch, last: int) -> None:
        self.done, self.last = 0, last
        for name in self.ACTIONS:
            patch.setattr(os, name, self.counted(getattr(os, name) if name != "fsync" else lambda descriptor: None))

    def counted(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            if self.done >= self.last:
                raise Kill
            self.done += 1
            return action(*arguments, **named)

        return act


def kills(original: Path | None, tmp_path: Path, work: Callable[[CheckpointStore], None]) -> Iterator[CheckpointStore]:
    """Do some work on a fresh copy, killed before its first action, its second, ...; yields what each kill leaves."""
    for last in count():
        directory = tmp_path / str(last) / "checkpoints"
        directory.parent.mkdir(parents=True)
        if original:
            shutil.copytree(original, directory)
        killed = False
        with pytest.MonkeyPatch.context() as patch:
            Machine(patch, last)
            try:
                work(CheckpointStore(directory))
            except Kill:
                killed = True
        yield CheckpointStore(directory)
        if not killed:
            assert last > 2
            return


def assert_tidy(store: CheckpointStore) -> None:
    """After tidying nothing is hidden, and every folder is a whole checkpoint."""
    store.tidy()
    assert not store.directory.exists() or not [name for name in names(store) if name.startswith(".")]
    assert all(equal(store.load(step), checkpoint(step, version_of(store.load(step)))) for step in store.steps())


def test_a_kill_within_a_save_leaves_the_former_or_the_new_checkpoint(original: Path, tmp_path: Path) -> None:
    seen = set()
    for store in kills(original, tmp_path, lambda store: save(store, 40) and None):
        seen.add(newest_step(store))
        assert_tidy(store)
        found = newest_step(store)
        assert found in (30, 40) and store.steps()[:3] == [10, 20, 30]
    assert seen == {30, 40}


def test_a_kill_within_the_first_save_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    for store in kills(None, tmp_path, lambda store: save(store, 10) and None):
        assert_tidy(store)
        found = store.newest()
        assert found is None or equal(found, checkpoint(10))


def test_a_kill_while_a_step_is_saved_again_leaves_its_old_or_its_new_checkpoint(original: Path, tmp_path: Path) -> None:
    seen = set()
    for store in kills(original, tmp_path, lambda store: save(store, 30, version=1) and None):
        assert_tidy(store)
        found = store.newest()
        assert found is not None and equal(found, checkpoint(30, version_of(found)))
        seen.add(version_of(found))
    assert seen == {0, 1}


def test_a_kill_while_the_only_checkpoint_is_saved_again_leaves_one(tmp_path: Path, original: Path) -> None:
    only = tmp_path / "only"
    shutil.copytree(original / "step-00000030", only / "step-00000030")
    refused = 0
    for store in kills(only, tmp_path, lambda store: save(store, 30, version=1) and None):
        try:
            store.newest()
        except RequestError as error:  # before it is tidied up
            assert "set aside" in str(error) and "resume never" not in str(error)
            refused += 1
        assert_tidy(store)
        assert newest_step(store) == 30
    assert refused == 1


def test_a_kill_while_a_damaged_checkpoint_is_replaced_leaves_an_older_or_the_new_one(original: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(original, tmp_path / "damaged")
    flip_bit(damaged / "step-00000030" / "arrays.npz", random.Random(0))
    for store in kills(damaged, tmp_path, lambda store: save(store, 30, version=1) and None):
        store.tidy()
        assert equal(found := store.newest(), checkpoint(30, 1)) or equal(found, checkpoint(20))
    assert equal(found, checkpoint(30, 1))


def test_a_kill_within_pruning_leaves_no_half_of_a_checkpoint(original: Path, tmp_path: Path) -> None:
    for store in kills(original, tmp_path, lambda store: store.prune(1, 0, None)):
        assert all(equal(store.load(step), checkpoint(step)) for step in store.steps())
        assert_tidy(store)
        assert newest_step(store) == 30
    assert store.steps() == [30]


def test_a_kill_within_tidying_is_made_good_by_the_next(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "left")
    left = CheckpointStore(tmp_path / "left")
    left.path(30).rename(left._hidden("step-00000030", "replaced"))
    shutil.copytree(left.path(20), left._hidden("step-00000020", "replaced"))
    shutil.copytree(left.path(20), left._hidden("step-00000040", "writing"))
    for store in kills(left.directory, tmp_path, CheckpointStore.tidy):
        assert_tidy(store)
        assert equal(store.newest(), checkpoint(30)) and store.steps() == [10, 20, 30]


def test_tidying_leaves_alone_what_another_living_process_writes(store: CheckpointStore) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        started = store_module._start_time(other.pid)
        living = store.directory / f".step-00000040.writing.{other.pid}-{started}.ab"
        namesake = store.directory / f".step-00000040.writing.{other.pid}-{started - 1}.ab"
        foreign = store.directory / ".step-00000040.mine"
        for path in (living, namesake, foreign):
            path.mkdir()
        store.tidy()
        assert living.exists() and not namesake.exists() and foreign.exists()
    finally:
        other.kill()
        other.wait()
    store.tidy()
    assert not living.exists()


def test_two_writers_of_one_step_do_not_share_a_name(store: CheckpointStore) -> None:
    assert len({store._hidden("step-00000040", "writing") for _ in range(100)}) == 100


# Disks that fail


def full_disk(*arguments: Any, **named: Any) -> NoReturn:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("target", ["zipfile._ZipWriteFile.write", "os.fsync", "pathlib.Path.write_text", "os.rename"])
@pytest.mark.parametrize("step", [30, 40])
def test_a_failing_write_leaves_the_former(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, target: str, step: int
) -> None:
    before = names(store)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(target, full_disk)
        save(store, step, version=1)
    assert names(store) == before and equal(store.newest(), checkpoint(30))


def test_when_the_new_one_cannot_take_its_place_the_old_one_returns(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, calls = names(store), os.rename, count(1)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(os, "rename", lambda *paths: full_disk() if next(calls) == 2 else rename(*paths))
        save(store, 30, version=1)
    assert names(store) == before and equal(store.newest(), checkpoint(30))


def test_a_file_that_may_not_grow_leaves_the_former(store: CheckpointStore) -> None:
    before, limits = names(store), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            store.save([("parameter/x", np.zeros(100_000))], {"step": 40})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(store) == before and newest_step(store) == 30


def test_a_disk_that_is_really_full_leaves_the_former_and_later_takes_more(tmp_path: Path) -> None:
    with small_disk(tmp_path, "256k"):
        store = CheckpointStore(tmp_path / "checkpoints")
        save(store, 10)
        before = names(store)
        for size in (30_000, 100_000):
            with pytest.raises(OSError, match="No space left"):
                store.save([(f"parameter/{number}", np.zeros(size)) for number in range(3)], {"step": 20})
            assert names(store) == before and equal(store.newest(), checkpoint(10))
        save(store, 30)
        assert newest_step(store) == 30


def in_the_way(path: Path) -> None:
    path.write_text("in the way")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


@pytest.mark.parametrize("make", [in_the_way, a_link_to_nothing, os.mkfifo])
@pytest.mark.parametrize("method", [CheckpointStore.tidy, CheckpointStore.newest])
def test_what_stands_where_the_folder_should_be_is_refused_at_the_start(
    tmp_path: Path, make: Callable[[Path], None], method: Callable[[CheckpointStore], object]
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    make(store.directory)
    with pytest.raises(RequestError, match="checkpoints is not a folder; move it away"):
        method(store)
    assert os.path.lexists(store.directory)


def test_a_file_where_the_folder_should_be_is_an_error_of_the_disk(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.directory.write_text("in the way")
    with pytest.raises(OSError, match="checkpoints"):
        save(store, 10)
    assert store.directory.read_text() == "in the way"


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    save(store, 30, version=1)
    assert equal(store.load(30), checkpoint(30, 1)) and store.steps() == [10, 20, 30]
    assert names(store) == ["latest", "step-00000010", "step-00000020", "step-00000030"]


def test_what_is_not_confirmed_does_not_take_its_place(store: CheckpointStore) -> None:
    def refuse() -> None:
        raise KeyError("refused")

    before = names(store)
    with pytest.raises(KeyError, match="refused"):
        store.save([], {"step": 30}, refuse)
    assert names(store) == before and equal(store.newest(), checkpoint(30))


# Pruning


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "best_step", "left"),
    [
        (1, 0, None, [60]),
        (2, 0, None, [50, 60]),
        (2, 0, 20, [20, 50, 60]),
        (2, 0, 60, [50, 60]),
        (1, 30, None, [30, 60]),
        (1, 20, 10, [10, 20, 40, 60]),
        (1, 7, None, [60]),
        (9, 0, None, [10, 20, 30, 40, 50, 60]),
        (1, 0, 999, [60]),
    ],
)
def test_pruning_keeps_the_newest_every_nth_and_the_best(
    store: CheckpointStore, keep_last: int, keep_every: int, best_step: int | None, left: list[int]
) -> None:
    for step in (40, 50, 60):
        shutil.copytree(store.path(30), store.path(step))
    store.prune(keep_last, keep_every, best_step)
    assert store.steps() == left and names(store) == ["latest", *(store.path(step).name for step in left)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, delete, append])
def test_a_damaged_checkpoint_does_not_count_among_the_last(
    store: CheckpointStore, damage: Callable[[Path, random.Random], None], name: str
) -> None:
    damage(store.path(30) / name, random.Random(0))
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert equal(store.newest(), checkpoint(20))


def test_a_flipped_bit_does_not_count_among_the_last_once_it_was_read(store: CheckpointStore) -> None:
    flip_bit(store.path(30) / "arrays.npz", random.Random(0))
    assert newest_step(store) == 20
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert store.steps() == [20, 30] and newest_step(store) == 20
    save(store, 30)
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert store.steps() == [30]


def test_pruning_does_not_read_the_arrays(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "fingerprint", full_disk)
    store.prune(keep_last=2, keep_every=0, best_step=None)
    assert store.steps() == [20, 30]


def test_when_none_is_whole_nothing_is_pruned(store: CheckpointStore) -> None:
    for step in store.steps():
        delete(store.path(step) / "manifest.json", random.Random(0))
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert store.steps() == [10, 20, 30]


@pytest.mark.parametrize("action", ["os.rename", "os.rmdir", "os.unlink", "os.fsync"])
def test_what_cannot_be_pruned_is_told_and_is_no_end(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, action: str
) -> None:
    def denied(*arguments: Any, **named: Any) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(action, denied)
        store.prune(keep_last=1, keep_every=0, best_step=None)
    assert "Permission denied" in log.text and str(store.directory) in log.text
    assert all(equal(store.load(step), checkpoint(step)) for step in store.steps()) and 30 in store.steps()
    store.tidy()
    store.prune(keep_last=1, keep_every=0, best_step=None)
    assert names(store) == ["latest", "step-00000030"]
