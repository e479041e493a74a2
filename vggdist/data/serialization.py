"""A data set as plain arrays, in which it goes from one process to the next: nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.data.arrays import ArraySource, Source
from vggdist.data.dataset import DataSet
from vggdist.data.encoded import EncodedSource
from vggdist.data.folder import FileStore
from vggdist.data.record_dataset import RecordStore
from vggdist.data.record_reader import RecordReader

_FACTS = "facts"  # JSON in UTF-8: all that is no array


def to_arrays(data: DataSet) -> dict[str, np.ndarray]:
    """All that :func:`from_arrays` needs, by name; the pixels and labels are the data set's own memory."""
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"mean": data.mean, "std": data.std, "identity": data.identity}
    facts["parts"] = {}
    for part, source in data.parts.items():
        facts["parts"][part], found = _described(source)
        arrays |= {f"{part}.{name}": array for name, array in found.items()}
    return {_FACTS: _bytes(json.dumps(facts).encode()), **arrays}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> DataSet:
    """The data set again, which shares the arrays' memory.

    Raises:
        RequestError: a record file can no longer be read, or has changed meanwhile.
    """
    facts = json.loads(arrays[_FACTS].tobytes())
    parts = {}
    for part, described in facts["parts"].items():
        own = {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}
        parts[part] = _rebuilt(described, own)
    return DataSet(**parts, mean=tuple(facts["mean"]), std=tuple(facts["std"]), identity=facts["identity"])


def _described(source: Source) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a source consists of: JSON values, and arrays by name."""
    facts: dict[str, Any] = {"class_names": source.class_names, "channels": source.channels, "left_out": source.left_out}
    if isinstance(source, ArraySource):
        return facts, {"labels": source.labels, "images": source.images}
    assert isinstance(source, EncodedSource)
    arrays, store = {"labels": source.labels}, source.store
    if isinstance(store, FileStore):
        return facts, arrays | {"paths": _bytes(b"\0".join(map(os.fsencode, store.paths)))}
    assert isinstance(store, RecordStore)
    reader = store.reader
    facts |= {"records": os.fspath(reader.path), "stamp": reader.stamp}
    return facts, arrays | {"places": store.places, "positions": reader.positions}


def _rebuilt(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Source:
    labels, names, left_out = arrays["labels"], tuple(facts["class_names"]), facts["left_out"]
    if "images" in arrays:
        return ArraySource(arrays["images"], labels, names, left_out)
    store = _same_records(facts, arrays) if "records" in facts else FileStore(_paths(arrays["paths"]))
    return EncodedSource(store, labels, names, facts["channels"], left_out)


def _same_records(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> RecordStore:
    reader = RecordReader(Path(facts["records"]))
    if reader.stamp != facts["stamp"] or not np.array_equal(reader.positions, arrays["positions"]):
        raise RequestError(f"{reader.path} was changed while it was read; start again when it is whole")
    return RecordStore(reader, arrays["places"])


def _paths(joined: np.ndarray) -> list[Path]:
    return [Path(os.fsdecode(path)) for path in joined.tobytes().split(b"\0")]


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)
