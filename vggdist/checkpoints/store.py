"""Checkpoints as folders that are whole or absent.

``checkpoints/step-00001234/`` holds ``arrays.npz`` (no pickle inside), ``state.json`` (counters and what a later run must
match) and ``manifest.json`` (SHA-256 and size of both); the small file ``checkpoints/latest`` names the newest folder. A
folder is written under a hidden name, synced and renamed; one whose files do not match its manifest is never used. A hidden
name, ``.step-00001234.<kind>.<process>.<random>``, tells :meth:`CheckpointStore.tidy` what a killed process was about:

- ``writing``: a checkpoint that is not complete.
- ``replaced``: the old checkpoint of a step that is being saved again, whole until the new one is in its place.
- ``removed``: pruned.

One process writes (rank 0); any process may read at the same time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggdist.config.errors import RequestError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-([0-9]{8,18})")
_HIDDEN = re.compile(r"\.(step-[0-9]{8,18}|latest)\.(writing|replaced|removed)\.([0-9]+)-([0-9]+)\.[0-9a-f]+")
_ARRAYS, _STATE, _MANIFEST, _LATEST = "arrays.npz", "state.json", "manifest.json", "latest"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        arrays: name -> array, ``parameter/<name>`` and ``optimizer/<name>/<state>``.
        state: JSON values; ``step`` is the number of finished steps.
    """

    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any]


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
        return [step for step in self.steps() if step not in self._damaged and _is_complete(self.path(step))]

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
        step = state["step"]
        final = self.path(step)
        aside = self._hidden(final.name, "writing")
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True)
            _sync(self.directory.parent)
        try:
            aside.mkdir()
            _write_arrays(aside / _ARRAYS, arrays)
            (aside / _STATE).write_text(json.dumps(state, indent=2, allow_nan=False))
            (aside / _MANIFEST).write_text(json.dumps({name: _fingerprint(aside / name) for name in (_ARRAYS, _STATE)}))
            for path in (aside / _ARRAYS, aside / _STATE, aside / _MANIFEST, aside):
                _sync(path)
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
            RequestError: when there are traces of checkpoints but none is whole, rather than start over silently.
        """
        steps, traces = self.steps(), self._warn_of_missing_latest()
        for step in reversed(steps):
            try:
                return self.load(step)
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
        """Read a checkpoint and verify it by its hashes. Nothing is unpickled.

        Raises:
            RequestError: when a file is missing, differs from the manifest or is not what it should be, naming the file.
        """
        folder = self.path(step)
        try:
            manifest = _read_manifest(folder / _MANIFEST)
            for name, expected in manifest.items():
                with _naming(folder / name):
                    if _fingerprint(folder / name) != expected:
                        raise ValueError("it does not match its SHA-256")
            checkpoint = Checkpoint(_read_arrays(folder / _ARRAYS), _read_state(folder / _STATE, step))
        except RequestError:
            self._damaged.add(step)
            raise
        self._damaged.discard(step)
        return checkpoint

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
                _sync(self.directory)
        for path in hidden:
            with _warning_of_leftover(path):
                _remove(path)

    def tidy(self) -> None:
        """Finish or undo what killed processes have left; to be called once, before the first save of a run.

        A checkpoint that was set aside goes back unless its successor is in its place; all else under a hidden name goes.
        What a living process of this machine is writing stays.
        """
        for path, name, kind, process in self._hidden_entries():
            if _is_other_living(*process):
                continue
            with _warning_of_leftover(path):
                if kind == "replaced" and not os.path.lexists(self.directory / name):
                    path.rename(self.directory / name)
                    _sync(self.directory)
                    logger.warning("%s is back, which a killed process had set aside", self.directory / name)
                else:
                    _remove(path)

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
        _sync(self.directory)
        if former:
            with _warning_of_leftover(former):
                _remove(former)

    def _point_to(self, name: str) -> None:
        """Let ``latest`` hold a folder's name."""
        aside = self._hidden(_LATEST, "writing")
        try:
            aside.write_text(f"{name}\n")
            _sync(aside)
            aside.replace(self.directory / _LATEST)
            _sync(self.directory)
        finally:
            aside.unlink(missing_ok=True)

    def _warn_of_missing_latest(self) -> bool:
        """Tell whether there is a pointer; warn when the checkpoint that it names is not there."""
        path = self.directory / _LATEST
        if not os.path.lexists(path):
            return False
        try:
            name = path.read_text().strip()
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read: %s; looking for the newest checkpoint", path, error)
            return True
        if not (_NAME.fullmatch(name) and (self.directory / name).is_dir()):
            logger.warning("%s names %.40r, which is not there; looking for an older checkpoint", path, name)
        return True


def _write_arrays(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """What ``np.savez`` writes, without having all arrays at hand, and with equal bytes for equal arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, given in arrays:
            array = np.asarray(given, order="C")
            if array.dtype.hasobject:
                raise ValueError(f"{name} holds objects, which would have to be pickled")
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(array))
                # Not np.lib.format.write_array: it copies, and keeps the other threads from running Python meanwhile.
                member.write(array.data)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with _naming(path), zipfile.ZipFile(path) as archive:
        return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in archive.infolist()}


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{member.filename} is not an array of numbers")
        # Ours have about 100 characters; what comes nested thousands deep brings Python's parser to a MemoryError.
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=500)  # type: ignore[call-arg]
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds objects, which would have to be unpickled")
        # Before the memory is asked for: a header may claim any size.
        if math.prod(shape) * dtype.itemsize != member.file_size - stream.tell():
            raise ValueError(f"{member.filename} is not of the size that its header tells")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def _read_state(path: Path, step: int) -> dict[str, Any]:
    with _naming(path):
        state = _parse(path.read_text())
        if not isinstance(state, dict):
            raise ValueError("it is not a JSON object")
        found = state.get("step")
        if type(found) is not int or found != step:
            raise ValueError(f"its step is {found!r:.40}, not {step}")
        return state


def _read_manifest(path: Path) -> dict[str, dict[str, str | int]]:
    with _naming(path):
        manifest = _parse(path.read_text())
        if not isinstance(manifest, dict) or set(manifest) != {_ARRAYS, _STATE}:
            raise ValueError("it does not name the checkpoint's files")
        for name, expected in manifest.items():
            if not isinstance(expected, dict) or set(expected) != {"sha256", "bytes"}:
                raise ValueError(f"it lacks SHA-256 and size of {name}")
        return manifest


def _parse(text: str) -> Any:
    """JSON by its standard, which has no number that is not finite."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is not a finite number")
    return value


def _is_complete(folder: Path) -> bool:
    """Whether all files are there in the sizes that the manifest tells."""
    try:
        manifest = _read_manifest(folder / _MANIFEST)
        return all((folder / name).stat().st_size == expected["bytes"] for name, expected in manifest.items())
    except (OSError, RequestError):
        return False


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged or hostile file raises into an error that names the file."""
    try:
        yield
    except (MemoryError, RequestError):
        raise  # too little memory is no damage
    except OSError as error:
        raise RequestError(f"checkpoint file {path} cannot be read: {error}") from None
    except Exception as error:  # the parsers of zip, npy and JSON raise what they like
        raise RequestError(f"checkpoint file {path} is damaged: {error or type(error).__name__}") from None


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


def _fingerprint(path: Path) -> dict[str, str | int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
