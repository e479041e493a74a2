"""Checkpoints as folders that are whole or absent.

``checkpoints/step-00001234/`` holds ``arrays.npz`` (no pickle inside), ``state.json`` (counters and what a later run must
match) and ``manifest.json`` (SHA-256 and size of both). A folder is written under another name, synced and renamed; a folder
whose files do not match its manifest is never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggdist.config.errors import RequestError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8,})")
_FILES = ("arrays.npz", "state.json")


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

    def steps(self) -> list[int]:
        """The steps of all checkpoints, whole or not, in rising order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(match[1]) for path in self.directory.iterdir() if (match := _NAME.fullmatch(path.name)))

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.directory / f"step-{step:08d}"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; when this returns it is on the disk.

        Raises:
            OSError: when it cannot be written; the earlier checkpoints stay as they are.
        """
        final = self.path(checkpoint.state["step"])
        aside = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            np.savez(aside / "arrays.npz", **dict(checkpoint.arrays))
            (aside / "state.json").write_text(json.dumps(checkpoint.state, indent=2))
            (aside / "manifest.json").write_text(json.dumps({name: _fingerprint(aside / name) for name in _FILES}))
            for path in (*aside.iterdir(), aside):
                _sync(path)
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
            _sync(self.directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return final

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are named in the log and passed over.

        Raises:
            RequestError: when there are checkpoints but none is whole, rather than start over silently.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except RequestError as error:
                logger.warning("%s; looking for an older checkpoint", error)
        if steps:
            raise RequestError(
                f"no checkpoint in {self.directory} is whole; start anew with --run.resume never "
                "--run.overwrite true, or another --run.name"
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint and verify it by its hashes.

        Raises:
            RequestError: when a file is missing or differs from the manifest, naming the file.
        """
        folder = self.path(step)
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            for name in _FILES:
                if _fingerprint(folder / name) != manifest[name]:
                    raise RequestError(f"checkpoint file {folder / name} is damaged: it does not match its SHA-256")
            with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return Checkpoint(arrays, json.loads((folder / "state.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise RequestError(f"checkpoint {folder} is damaged: {error}") from None

    def prune(self, keep_last: int, best_step: int | None) -> None:
        """Remove all but the newest ``keep_last`` checkpoints and the best."""
        for step in self.steps()[:-keep_last]:
            if step != best_step:
                shutil.rmtree(self.path(step))


def _fingerprint(path: Path) -> dict[str, str | int]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
