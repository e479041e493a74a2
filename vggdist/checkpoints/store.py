"""Which checkpoints of a run are there? Folders that are whole or absent, whatever kills the process.

``checkpoints/step-00001234/`` holds the files of :mod:`~vggdist.checkpoints.contents`; the small file ``checkpoints/latest``
names the newest folder. A folder is written under a hidden name, synced and renamed. A hidden name,
``.step-00001234.<kind>.<process>.<random>``, tells :meth:`CheckpointStore.tidy` what a killed process was about:

- ``writing``: a checkpoint that is not complete.
- ``replaced``: the old checkpoint of a step that is being saved again, whole until the new one is in its place.
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

import numpy as np

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
        self._damaged: set[int] = set()  # found by reading; :meth:`prune` looks at no content

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, whole or not, in rising order."""
        found = (int(match[1]) for path in self._entries() if (match := _NAME.fullmatch(path.name)))
        return sorted(step for step in set(found) if os.path.lexists(self.path(step)))

    def whole_steps(self) -> list[int]:
        """The steps whose files are all there in their full size, in rising order.

        Their content is not read again, which would take seconds for each; a checkpoint that this object has read before
        and found damaged is left out.
        """
        return [step for step in self.steps() if step not in self._damaged and contents.is_complete(self.path(step))]

    def save(
        self,
        arrays: Iterable[tuple[str, np.ndarray]],
        state: Mapping[str, Any],
        confirm: Callable[[], None] = lambda: None,
    ) -> Path:
        """Write a checkpoint; when this returns it is on the disk.

        Args:
            arrays: names and arrays, taken one after the other and not kept.
            state: JSON values; ``step`` names the folder.
            confirm: called when all is written, just before the checkpoint takes its place; what it raises prevents that.

        Raises:
            OSError: when it cannot be written; the earlier checkpoints stay as they are, also that of the same step.
            ValueError: when an array holds objects or the state a number that is not finite.
        """
        return self._save(state["step"], lambda folder: contents.write(folder, arrays, state), confirm)

    def amend(self, state: Mapping[str, Any], confirm: Callable[[], None] = lambda: None) -> Path:
        """Replace all that a step's checkpoint holds beside its arrays, by a new folder that shares these with the old one.

        Raises:
            RequestError: when the checkpoint's manifest cannot be read.
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
        """The newest whole checkpoint; damaged ones are named in the log and passed over. None: there never was one.

        Raises:
            RequestError: when there are traces of checkpoints but none is whole, rather than start over silently; or when
                another version of this program wrote the newest one.
        """
        self._require_folder()
        steps, traces = self.steps(), self._warn_of_missing_latest()
        for step in reversed(steps):
            try:
                return self.load(step)
            except OtherFormat:
                raise  # an older checkpoint of this version would be of another training
            except RequestError as error:
                logger.warning("%s; looking for an older checkpoint", error)
        set_aside = [path for path, name, kind, _ in self._hidden_entries() if kind == "replaced"]
        if set_aside:
            raise RequestError(
                f"no checkpoint in {self.directory} is whole, but {set_aside[0]} was set aside by a process that did not end "
                "well; continuing the training of this run puts it back"
            )
        if steps or traces:
            raise RequestError(
                f"no checkpoint in {self.directory} is whole; start anew with --run.resume never "
                "--run.overwrite true, or another --run.name"
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint and verify it, as :func:`~vggdist.checkpoints.contents.read` does.

        Raises:
            RequestError: when a file is missing, differs from the manifest or is not what it should be, naming the file.
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
        """The step of the best checkpoint, as the newest whole one has it; None where nothing was measured.

        Raises:
            RequestError: no state of a checkpoint can be read, or another version of this program wrote the newest one.
        """
        refusal = RequestError(f"{self.directory} holds no checkpoint")
        for step in reversed(self.whole_steps()):
            try:
                return contents.read_state(self.path(step), step)["best_step"]
            except OtherFormat:
                raise
            except RequestError as error:
                refusal = error
        raise refusal

    def prune(self, keep_last: int, keep_every: int, best_step: int | None) -> None:
        """Remove the checkpoints that need not be kept. What cannot be removed is named in the log.

        Args:
            keep_last: so many of the newest whole ones stay, see :meth:`whole_steps`, and damaged ones in between; at
                least 1.
            keep_every: those at multiples of so many steps stay; 0: none for that reason.
            best_step: this one stays, too; None: there is no best yet.
        """
        last = self.whole_steps()[-keep_last:]
        if not last:
            return  # nothing is worth more than what is there
        hidden = []
        for step in self.steps():
            kept = step >= last[0] or step == best_step or (keep_every and step % keep_every == 0)
            if not kept:
                path = self.path(step)
                with _warning_of_leftover(path):
                    # Renamed first: a kill in the midst of removing leaves no half of a checkpoint.
                    hidden.append(path.rename(self._hidden(path.name, "removed")))
        if hidden:
            with _warning_of_leftover(self.directory):
                sync(self.directory)
        for path in hidden:
            with _warning_of_leftover(path):
                _remove(path)

    def remove_all(self) -> None:
        """Remove every checkpoint and what belongs to them, and nothing else that may lie in the folder."""
        for path in self._entries():
            if _NAME.fullmatch(path.name) or _HIDDEN.fullmatch(path.name) or path.name == _LATEST:
                _remove(path)

    def tidy(self) -> None:
        """Finish or undo what killed processes have left; to be called once, before the first save of a run.

        A checkpoint that was set aside goes back unless its successor is in its place; all else under a hidden name goes.
        What a living process of this machine is writing stays.

        Raises:
            RequestError: when something other than a folder stands in the place of the checkpoints.
        """
        self._require_folder()
        for path, name, kind, process in self._hidden_entries():
            if _is_other_living(*process):
                continue
            with _warning_of_leftover(path):
                if kind == "replaced" and not os.path.lexists(self.directory / name):
                    path.rename(self.directory / name)
                    sync(self.directory)
                    logger.warning("%s is back, which a killed process had set aside", self.directory / name)
                else:
                    _remove(path)

    def _require_folder(self) -> None:
        if os.path.lexists(self.directory) and not self.directory.is_dir():
            raise RequestError(f"{self.directory} is not a folder; move it away, or use another --run.name")

    def _entries(self) -> list[Path]:
        return sorted(self.directory.iterdir()) if self.directory.is_dir() else []

    def _hidden_entries(self) -> Iterator[tuple[Path, str, str, tuple[int, int]]]:
        """Path, what it is to be, kind and process of everything under a hidden name."""
        for path in self._entries():
            if match := _HIDDEN.fullmatch(path.name):
                yield path, match[1], match[2], (int(match[3]), int(match[4]))

    def _hidden(self, name: str, kind: str) -> Path:
        process, started = os.getpid(), _start_time(os.getpid())
        return self.directory / f".{name}.{kind}.{process}-{started}.{uuid.uuid4().hex}"

    def _put_in_place(self, aside: Path, final: Path) -> None:
        """Rename a synced folder; a checkpoint that is in its place goes only when that is on the disk."""
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
        """Let ``latest`` hold a folder's name."""
        aside = self._hidden(_LATEST, "writing")
        try:
            aside.write_text(f"{name}\n")
            sync(aside)
            aside.replace(self.directory / _LATEST)
            sync(self.directory)
        finally:
            aside.unlink(missing_ok=True)

    def _warn_of_missing_latest(self) -> bool:
        """Tell whether there is a pointer; warn when the checkpoint that it names is not there."""
        path = self.directory / _LATEST
        if not os.path.lexists(path):
            return False
        try:
            name = read_text(path, _LONGEST_POINTER).strip()
        except OSError as error:
            logger.warning("%s cannot be read: %s; looking for the newest checkpoint", path, error.strerror or error)
            return True
        if not (_NAME.fullmatch(name) and (self.directory / name).is_dir()):
            logger.warning("%s names %.40r, which is not there; looking for an older checkpoint", path, name)
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
    """When a process started, in clock ticks since the machine's; 0 where that is not known.

    A restarted container gives its processes the same numbers again; number and start together name one process.
    """
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_other_living(process: int, started: int) -> bool:
    """Whether a process of this machine, other than this one, is alive."""
    if process == os.getpid():
        return False  # it tidies before it writes
    try:
        os.kill(process, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return False
    return _start_time(process) == started
