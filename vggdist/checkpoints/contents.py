"""The files of one checkpoint: how they are written, and read without trust.

``arrays.npz`` (no pickle inside), ``state.json`` (counters and what a later run must match) and ``manifest.json`` (SHA-256 and
size of both). A folder whose files do not match its manifest is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggdist.config.errors import RequestError

_ARRAYS, _STATE, _MANIFEST = "arrays.npz", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        arrays: name -> array, ``parameter/<name>`` and ``optimizer/<name>/<state>``.
        state: JSON values; ``step`` is the number of finished steps.
    """

    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any]


def write(folder: Path, arrays: Iterable[tuple[str, np.ndarray]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint's files into a new folder; when this returns they are on the disk.

    Args:
        arrays: names and arrays, taken one after the other and not kept.
        state: JSON values.

    Raises:
        OSError: when it cannot be written.
        ValueError: when an array holds objects or the state a number that is not finite.
    """
    _write_arrays(folder / _ARRAYS, arrays)
    (folder / _STATE).write_text(json.dumps(state, indent=2, allow_nan=False))
    (folder / _MANIFEST).write_text(json.dumps({name: fingerprint(folder / name) for name in (_ARRAYS, _STATE)}))
    for path in (folder / _ARRAYS, folder / _STATE, folder / _MANIFEST, folder):
        sync(path)


def read(folder: Path, step: int) -> Checkpoint:
    """Read a checkpoint's files and verify them by their hashes. Nothing is unpickled.

    Args:
        step: that the state must tell, as the folder's name does.

    Raises:
        RequestError: when a file is missing, differs from the manifest or is not what it should be, naming the file.
    """
    for name, expected in _read_manifest(folder / _MANIFEST).items():
        with _naming(folder / name):
            if fingerprint(folder / name) != expected:
                raise ValueError("it does not match its SHA-256")
    return Checkpoint(_read_arrays(folder / _ARRAYS), _read_state(folder / _STATE, step))


def is_complete(folder: Path) -> bool:
    """Whether all files are there in the sizes that the manifest tells; their content is not read."""
    try:
        manifest = _read_manifest(folder / _MANIFEST)
        return all((folder / name).stat().st_size == expected["bytes"] for name, expected in manifest.items())
    except (OSError, RequestError):
        return False


def fingerprint(path: Path) -> dict[str, str | int]:
    """SHA-256 and size in bytes of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def sync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
