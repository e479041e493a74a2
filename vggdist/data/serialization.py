"""Conversion of a data set to plain arrays and back, to transfer it between processes without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.data.arrays import ArraySource, Source
from vggdist.data.dataset import DataSet
from vggdist.data.encoded import EncodedSource
from vggdist.data.folder import FileStore
from vggdist.data.record_dataset import RecordStore
from vggdist.data.record_reader import RecordReader

_METADATA = "metadata"  # JSON in UTF-8: everything that is not an array


def to_arrays(data: DataSet) -> dict[str, NDArray[Any]]:
    """Convert to arrays by name, for :func:`from_arrays`; pixels and labels are not copied."""
    arrays: dict[str, NDArray[Any]] = {}
    metadata: dict[str, Any] = {"mean": data.mean, "std": data.std, "identity": data.identity}
    metadata["parts"] = {}
    for part, source in data.parts.items():
        metadata["parts"][part], own = _described(source)
        arrays |= {f"{part}.{name}": array for name, array in own.items()}
    return {_METADATA: _bytes(json.dumps(metadata).encode()), **arrays}


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> DataSet:
    """Rebuild the data set, which shares the memory of the arrays.

    Raises:
        RequestError: a record file cannot be read, or has changed.
    """
    metadata = json.loads(arrays[_METADATA].tobytes())
    parts = {}
    for part, described in metadata["parts"].items():
        own = {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}
        parts[part] = _rebuilt(described, own)
    return DataSet(**parts, mean=tuple(metadata["mean"]), std=tuple(metadata["std"]), identity=metadata["identity"])


def _described(source: Source) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The JSON values and the arrays of a source."""
    metadata: dict[str, Any] = {"class_names": source.class_names, "channels": source.channels, "left_out": source.left_out}
    if isinstance(source, ArraySource):
        return metadata, {"labels": source.labels, "images": source.images}
    assert isinstance(source, EncodedSource)
    arrays, store = {"labels": source.labels}, source.store
    if isinstance(store, FileStore):
        return metadata, arrays | {"paths": _bytes(b"\0".join(map(os.fsencode, store.paths)))}
    assert isinstance(store, RecordStore)
    reader = store.reader
    metadata |= {"records": os.fspath(reader.path), "stamp": reader.stamp}
    return metadata, arrays | {"places": store.places, "positions": reader.positions}


def _rebuilt(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Source:
    labels, names, left_out = arrays["labels"], tuple(metadata["class_names"]), metadata["left_out"]
    if "images" in arrays:
        return ArraySource(arrays["images"], labels, names, left_out)
    store = _same_records(metadata, arrays) if "records" in metadata else FileStore(_paths(arrays["paths"]))
    return EncodedSource(store, labels, names, metadata["channels"], left_out)


def _same_records(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> RecordStore:
    reader = RecordReader(Path(metadata["records"]))
    if reader.stamp != metadata["stamp"] or not np.array_equal(reader.positions, arrays["positions"]):
        raise RequestError(f"{reader.path} was changed while it was read; start again when it is complete")
    return RecordStore(reader, arrays["places"])


def _paths(joined: NDArray[np.uint8]) -> list[Path]:
    return [Path(os.fsdecode(path)) for path in joined.tobytes().split(b"\0")]


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)
