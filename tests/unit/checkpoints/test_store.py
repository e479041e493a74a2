"""A checkpoint is intact or absent after any kill or on a full disk; the newest intact one is used."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tests.disks import small_disk
from tests.states import training_state
from tests.stored import (
    FILES,
    append,
    checkpoint,
    delete,
    equal,
    flip_bit,
    full_disk,
    names,
    newest_step,
    save,
    truncate,
    version_of,
)
from vggdist.checkpoints import contents
from vggdist.checkpoints import store as store_module
from vggdist.checkpoints.contents import Checkpoint
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError

# Reading


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
            assert len(alive) <= 2  # this one, and the previous one until it is replaced
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
def test_a_pointer_to_nothing_is_reported_and_the_newest_used(
    store: CheckpointStore, text: str, log: pytest.LogCaptureFixture
) -> None:
    (store.directory / "latest").write_text(text)
    assert newest_step(store) == 30
    assert "latest names" in log.text and repr(text.strip())[:20] in log.text and len(log.text) < 1000


def test_a_pointer_that_cannot_be_read_is_reported_and_the_newest_used(
    store: CheckpointStore, log: pytest.LogCaptureFixture
) -> None:
    (store.directory / "latest").write_bytes(b"\xff\xfe")
    assert newest_step(store) == 30 and "latest cannot be read" in log.text


def test_a_pointer_alone_is_a_trace_of_a_lost_checkpoint(store: CheckpointStore) -> None:
    for step in store.steps():
        shutil.rmtree(store.path(step))
    with pytest.raises(RequestError, match=r"no checkpoint in .* is intact; start again with --run\.resume never"):
        store.newest()


def test_a_checkpoint_newer_than_the_pointer_is_used(store: CheckpointStore, log: pytest.LogCaptureFixture) -> None:
    (store.directory / "latest").write_text("step-00000020\n")
    assert newest_step(store) == 30 and not log.text


# Kills


class Kill(BaseException):
    """The process was killed: nothing handles this."""


class Machine:
    """Counts the disk operations of a process and kills it before the n-th; a dead process does nothing more."""

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


def kills(original: Path | None, tmp_path: Path, work: Callable[[CheckpointStore], object]) -> Iterator[CheckpointStore]:
    """Do some work on a fresh copy, killed before its first operation, its second, ...; yields the store after each."""
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
    """After tidying nothing is hidden, and every folder is an intact checkpoint."""
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


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_kill_while_a_state_is_replaced_leaves_the_old_or_the_new_one_with_the_same_arrays(
    links: bool, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    amended, seen = {**checkpoint(30).state, "best_step": 7}, set()
    for store in kills(original, tmp_path, lambda store: store.amend(amended) and None):
        store.tidy()
        found = store.newest()
        assert found is not None and equal(found, Checkpoint(checkpoint(30).arrays, found.state))
        assert found.state in (amended, checkpoint(30).state)
        seen.add(found.state["best_step"])
    assert 7 in seen and len(seen) == 2


def refuse_links(source: Path, target: Path) -> NoReturn:
    raise PermissionError(errno.EPERM, "Operation not permitted")


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
def test_what_cannot_be_pruned_is_reported_and_is_no_end(
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
