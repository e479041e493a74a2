"""The checkpoints of a run: folders that are intact or absent, even if the process is killed.

``checkpoints/step-00001234/`` holds the files of :mod:`~vggdist.checkpoints.contents`; the small file ``checkpoints/latest``
names the newest folder. A folder is written under a hidden name, synced and renamed. A hidden name,
``.step-00001234.<kind>.<process>.<random>``, lets :meth:`CheckpointStore.tidy` clean up after a killed process:

- ``writing``: an incomplete checkpoint.
- ``replaced``: the old checkpoint of a step that is being saved again, intact until the new one is in its place.
- ``removed``: pruned.

One process writes (rank 0); any process may read at the same time.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vggdist.checkpoints import contents
from vggdist.checkpoints.contents import Checkpoint, OtherFormat, sync
from vggdist.config.errors import RequestError
from vggdist.config.files import read_text

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-([0-9]{8,18})")
_HIDDEN = re.compile(r"\.(step-[0-9]{8,18}|latest)\.(writing|replaced|removed)\.([0-9]+)-([0-9]+)\.[0-9a-f]+")
_LATEST = "latest"
_LONGEST_POINTER = 2**14
"""Bytes of ``latest``, which has about fifteen."""


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._damaged: set[int] = set()  # found by reading; :meth:`prune` reads no content

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, intact or not, in ascending order."""
        found = (int(match[1]) for path in self._entries() if (match := _NAME.fullmatch(path.name)))
        return sorted(step for step in set(found) if os.path.lexists(self.path(step)))

    def complete_steps(self) -> list[int]:
        """The steps whose files all exist in full size, in ascending order.

        Their content is not read, which would take seconds for each; a checkpoint that this object has read before and
        found damaged is excluded.
        """
        return [step for step in self.steps() if step not in self._damaged and contents.is_complete(self.path(step))]

    def save(
        self,
        arrays: Iterable[tuple[str, NDArray[Any]]],
        state: Mapping[str, Any],
        confirm: Callable[[], None] = lambda: None,
    ) -> Path:
        """Write a checkpoint; when this returns it is on the disk.

        Args:
            arrays: names and arrays, consumed one at a time.
            state: JSON values; ``step`` names the folder.
            confirm: called when all files are written, before the folder is renamed; an exception prevents that.

        Raises:
            OSError: the checkpoint cannot be written; earlier ones do not change, including that of the same step.
            ValueError: an array contains objects, or the state a number that is not finite.
        """
        return self._save(state["step"], lambda folder: contents.write(folder, arrays, state), confirm)

    def amend(self, state: Mapping[str, Any], confirm: Callable[[], None] = lambda: None) -> Path:
        """Replace the state of a step's checkpoint, by a new folder that shares the arrays with the old one.

        Raises:
            RequestError: the checkpoint's manifest cannot be read.
            OSError, ValueError: as :meth:`save`.
        """
        former = self.path(state["step"])
        return self._save(state["step"], lambda folder: contents.write_with_arrays_of(former, folder, state), confirm)

    def _save(self, step: int, write: Callable[[Path], None], confirm: Callable[[], None]) -> Path:
        final = self.path(step)
        aside = self._hidden(final.name, "writing")
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True)
            sync(self.directory.parent)
        try:
            aside.mkdir()
            write(aside)
            confirm()
            self._put_in_place(aside, final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._damaged.discard(step)
        self._point_to(final.name)
        return final

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint; damaged ones are logged and skipped. None: there never was one.

        Raises:
            RequestError: there are traces of checkpoints but none is intact (a silent restart would lose the run); or
                another version of this program wrote the newest one.
        """
        self._require_folder()
        steps, traces = self.steps(), self._warn_of_missing_latest()
        for step in reversed(steps):
            try:
                return self.load(step)
            except OtherFormat:
                raise  # an older checkpoint of this version would be from another training
            except RequestError as error:
                logger.warning("%s; looking for an older checkpoint", error)
        set_aside = [path for path, name, kind, _ in self._hidden_entries() if kind == "replaced"]
        if set_aside:
            raise RequestError(
                f"no checkpoint in {self.directory} is intact, but {set_aside[0]} was set aside by a process that was killed; "
                "continue the training of this run to restore it"
            )
        if steps or traces:
            raise RequestError(
                f"no checkpoint in {self.directory} is intact; start again with --run.resume never "
                "--run.overwrite true, or another --run.name"
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint and verify it, as :func:`~vggdist.checkpoints.contents.read` does.

        Raises:
            RequestError: a file is missing, differs from the manifest or is invalid; the message names the file.
        """
        try:
            checkpoint = contents.read(self.path(step), step)
        except OtherFormat:
            raise
        except RequestError:
            self._damaged.add(step)
            raise
        self._damaged.discard(step)
        return checkpoint

    def best_step(self) -> int | None:
        """The step of the best checkpoint, from the newest intact one; None if there was no evaluation.

        Raises:
            RequestError: no checkpoint's state can be read, or another version of this program wrote the newest one.
        """
        failure = RequestError(f"{self.directory} has no checkpoint")
        for step in reversed(self.complete_steps()):
            try:
                return contents.read_state(self.path(step), step)["best_step"]
            except OtherFormat:
                raise
            except RequestError as error:
                failure = error
        raise failure

    def prune(self, keep_last: int, keep_every: int, best_step: int | None) -> None:
        """Remove the checkpoints that need not be kept. What cannot be removed is logged.

        Args:
            keep_last: number of the newest complete ones to keep (:meth:`complete_steps`), with damaged ones in between; at
                least 1.
            keep_every: keep those at multiples of this many steps; 0: none.
            best_step: keep this one, too; None: there is no best yet.
        """
        last = self.complete_steps()[-keep_last:]
        if not last:
            return  # damaged checkpoints are all there is
        hidden = []
        for step in self.steps():
            kept = step >= last[0] or step == best_step or (keep_every and step % keep_every == 0)
            if not kept:
                path = self.path(step)
                with _warning_of_leftover(path):
                    # Renamed first: a kill during the removal leaves no partial checkpoint.
                    hidden.append(path.rename(self._hidden(path.name, "removed")))
        if hidden:
            with _warning_of_leftover(self.directory):
                sync(self.directory)
        for path in hidden:
            with _warning_of_leftover(path):
                _remove(path)

    def remove_all(self) -> None:
        """Remove all checkpoints and their hidden files, and nothing else in the folder."""
        for path in self._entries():
            if _NAME.fullmatch(path.name) or _HIDDEN.fullmatch(path.name) or path.name == _LATEST:
                _remove(path)

    def tidy(self) -> None:
        """Clean up after killed processes; to be called once, before the first save of a run.

        A checkpoint that was set aside is restored unless its successor is in its place; everything else under a hidden name
        is removed, except what a live process of this machine is writing.

        Raises:
            RequestError: the path of the checkpoints is not a folder.
        """
        self._require_folder()
        for path, name, kind, process in self._hidden_entries():
            if _is_other_live_process(*process):
                continue
            with _warning_of_leftover(path):
                if kind == "replaced" and not os.path.lexists(self.directory / name):
                    path.rename(self.directory / name)
                    sync(self.directory)
                    logger.warning("%s is restored; a killed process had set it aside", self.directory / name)
                else:
                    _remove(path)

    def _require_folder(self) -> None:
        if os.path.lexists(self.directory) and not self.directory.is_dir():
            raise RequestError(f"{self.directory} is not a folder; move it away, or use another --run.name")

    def _entries(self) -> list[Path]:
        return sorted(self.directory.iterdir()) if self.directory.is_dir() else []

    def _hidden_entries(self) -> Iterator[tuple[Path, str, str, tuple[int, int]]]:
        """Path, final name, kind and process of everything under a hidden name."""
        for path in self._entries():
            if match := _HIDDEN.fullmatch(path.name):
                yield path, match[1], match[2], (int(match[3]), int(match[4]))

    def _hidden(self, name: str, kind: str) -> Path:
        process, started = os.getpid(), _start_time(os.getpid())
        return self.directory / f".{name}.{kind}.{process}-{started}.{uuid.uuid4().hex}"

    def _put_in_place(self, aside: Path, final: Path) -> None:
        """Rename a synced folder; an old checkpoint of the same name is removed when the new one is on the disk."""
        former = self._hidden(final.name, "replaced") if os.path.lexists(final) else None
        if former:
            final.rename(former)
        try:
            aside.rename(final)
        except OSError:
            if former:
                former.rename(final)
            raise
        sync(self.directory)
        if former:
            with _warning_of_leftover(former):
                _remove(former)

    def _point_to(self, name: str) -> None:
        """Write a folder's name to ``latest``."""
        aside = self._hidden(_LATEST, "writing")
        try:
            aside.write_text(f"{name}\n")
            sync(aside)
            aside.replace(self.directory / _LATEST)
            sync(self.directory)
        finally:
            aside.unlink(missing_ok=True)

    def _warn_of_missing_latest(self) -> bool:
        """Return whether ``latest`` exists; warn if the checkpoint that it names does not."""
        path = self.directory / _LATEST
        if not os.path.lexists(path):
            return False
        try:
            name = read_text(path, _LONGEST_POINTER).strip()
        except OSError as error:
            logger.warning("%s cannot be read: %s; looking for the newest checkpoint", path, error.strerror or error)
            return True
        if not (_NAME.fullmatch(name) and (self.directory / name).is_dir()):
            logger.warning("%s names %.40r, which does not exist; looking for an older checkpoint", path, name)
        return True


@contextmanager
def _warning_of_leftover(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.warning("checkpoint folder %s cannot be tidied up: %s", path, error)


def _remove(path: Path) -> None:
    """Remove a folder, or the file that stands where a folder should be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _start_time(process: int) -> int:
    """Start time of a process, in clock ticks since the machine's boot; 0 if unknown.

    A restarted container reuses process numbers; number and start time together identify a process.
    """
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_other_live_process(process: int, started: int) -> bool:
    """Whether a process of this machine, other than this one, is alive."""
    if process == os.getpid():
        return False  # this process tidies before it writes
    try:
        os.kill(process, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return False
    return _start_time(process) == started
