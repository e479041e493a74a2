"""The files of one checkpoint: writing them, and reading them with full verification.

``arrays.npz`` (no pickle inside), ``state.json`` (counters and what a later run must match) and ``manifest.json`` (SHA-256 and
size of both). A folder whose files do not match its manifest is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints.schema import FORMAT, CheckpointState, fault
from vggdist.config.archives import stored_archive
from vggdist.config.errors import RequestError
from vggdist.config.files import naming, open_regular, read_regular

_ARRAYS, _STATE, _MANIFEST = "arrays.npz", "state.json", "manifest.json"
_LONGEST_MANIFEST, _LONGEST_STATE = 2**14, 2**28
"""Bytes."""


class OtherFormat(RequestError):
    """An intact checkpoint of another version of this program."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        arrays: name -> array, ``parameter/<name>``, ``optimizer/<name>/<state>`` and, with an average, ``average/<name>``.
        state: everything else.
    """

    arrays: Mapping[str, NDArray[Any]]
    state: CheckpointState


def write(folder: Path, arrays: Iterable[tuple[str, NDArray[Any]]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint's files into a new folder; when this returns they are on the disk.

    Args:
        arrays: names and arrays, consumed one at a time.
        state: JSON values.

    Raises:
        OSError: the checkpoint cannot be written.
        ValueError: an array contains objects, or the state a number that is not finite.
    """
    _write_arrays(folder / _ARRAYS, arrays)
    _complete(folder, fingerprint(folder / _ARRAYS), state)


def write_with_arrays_of(former: Path, folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint's files into a new folder, with the arrays of another checkpoint by a hard link.

    Raises:
        OSError: the checkpoint cannot be written.
        RequestError: the other checkpoint's manifest cannot be read.
        ValueError: the state contains a number that is not finite.
    """
    try:
        os.link(former / _ARRAYS, folder / _ARRAYS)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(former / _ARRAYS, folder / _ARRAYS)
    _complete(folder, _read_manifest(former / _MANIFEST)[_ARRAYS], state)


def read(folder: Path, step: int | None = None) -> Checkpoint:
    """Read a checkpoint's files and verify them by hash and schema. Nothing is unpickled.

    Args:
        step: expected step of the state, from the folder's name; None: any.

    Raises:
        RequestError: a file is missing, differs from the manifest or is invalid; the message names the file.
        OtherFormat: another version of this program wrote it.
    """
    state = read_state(folder, step)
    with _verified(folder / _ARRAYS, _read_manifest(folder / _MANIFEST)[_ARRAYS]) as file:
        return Checkpoint(_read_arrays(file), state)


def read_state(folder: Path, step: int | None = None) -> CheckpointState:
    """Read and verify the state of a checkpoint, without the arrays; raises as :func:`read`."""
    with _verified(folder / _STATE, _read_manifest(folder / _MANIFEST)[_STATE], _LONGEST_STATE) as file:
        return _read_state(file, folder, step)


def is_complete(folder: Path) -> bool:
    """Whether all files exist in the sizes of the manifest; their content is not read."""
    try:
        manifest = _read_manifest(folder / _MANIFEST)
        return all(_is_regular(folder / name, expected["bytes"]) for name, expected in manifest.items())
    except (OSError, RequestError):
        return False


def fingerprint(path: Path) -> dict[str, str | int]:
    """SHA-256 and size in bytes of a file."""
    with path.open("rb") as file:
        return _fingerprint(file)


def sync(path: Path) -> None:
    """Sync a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _complete(folder: Path, arrays: Mapping[str, str | int], state: Mapping[str, Any]) -> None:
    """Write state and manifest next to ``arrays.npz``, whose fingerprint is given, and sync all files to the disk."""
    (folder / _STATE).write_text(json.dumps(state, indent=2, allow_nan=False))
    (folder / _MANIFEST).write_text(json.dumps({_ARRAYS: arrays, _STATE: fingerprint(folder / _STATE)}))
    for path in (folder / _ARRAYS, folder / _STATE, folder / _MANIFEST, folder):
        sync(path)


def _write_arrays(path: Path, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write as ``np.savez`` does, but one array at a time, and with equal bytes for equal arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays:
            array = np.asarray(values, order="C")
            if array.dtype.hasobject:
                raise ValueError(f"{name} contains objects, which need pickle")
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(array))
                # Not np.lib.format.write_array: it copies, and holds the GIL meanwhile.
                member.write(array.data)


@contextmanager
def _verified(path: Path, expected: Mapping[str, str | int], limit: int | None = None) -> Iterator[BinaryIO]:
    """The open file, after its content was compared with the manifest."""
    with naming(f"checkpoint file {path}"), open_regular(path, limit) as file:
        if _size(file) != expected["bytes"] or _fingerprint(file) != expected:
            raise ValueError("it does not match its SHA-256")
        file.seek(0)
        yield file


def _fingerprint(file: BinaryIO) -> dict[str, str | int]:
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
    return {"sha256": digest.hexdigest(), "bytes": _size(file)}


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _is_regular(path: Path, size: int) -> bool:
    status = path.stat()
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _read_arrays(file: BinaryIO) -> dict[str, NDArray[Any]]:
    with stored_archive(file) as archive:
        return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in archive.infolist()}


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{member.filename} is not an array of numbers")
        # Ours have about 100 characters; thousands of nested brackets cause a MemoryError in Python's parser.
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=500)  # type: ignore[call-arg]
        if dtype.kind not in "fiu":
            raise ValueError(f"{member.filename} contains {str(dtype):.40}, not numbers")
        # Before memory is allocated: a header may claim any size.
        if math.prod(shape) * dtype.itemsize != member.file_size - stream.tell():
            raise ValueError(f"{member.filename} does not have the size in its header")
        stream.seek(0)
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{member.filename} has values that are not finite")
    return array


def _read_state(file: BinaryIO, folder: Path, step: int | None) -> CheckpointState:
    state = _parse(file.read())
    if isinstance(state, dict) and type(state.get("format")) is int and state["format"] != FORMAT:
        raise OtherFormat(
            f"{folder} was written by another version of vggdist (format {str(state['format']):.20}, not {FORMAT}); continue "
            "with that version, or use another --run.name"
        )
    if message := fault(state):
        raise ValueError(message)
    if step not in (None, state["step"]):
        raise ValueError(f"its step is {state['step']}, not {step}")
    return state


def _read_manifest(path: Path) -> dict[str, Any]:
    """SHA-256 and size of each of the other files, by file name."""
    with naming(f"checkpoint file {path}"):
        manifest = _parse(read_regular(path, _LONGEST_MANIFEST))
        if not isinstance(manifest, dict) or set(manifest) != {_ARRAYS, _STATE}:
            raise ValueError("it does not name the checkpoint's files")
        for name, expected in manifest.items():
            if not isinstance(expected, dict) or set(expected) != {"sha256", "bytes"}:
                raise ValueError(f"it lacks SHA-256 and size of {name}")
        return manifest


def _parse(text: bytes) -> Any:
    """Standard JSON, in which every number is finite."""
    return json.loads(text.decode("utf-8"), parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is not a finite number")
    return value
