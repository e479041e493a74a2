"""Writer of ``torch.save`` files without torch."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

_KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "uint16": "BFloat16Storage"}
"""Storage classes of torch; bfloat16 is written as uint16, because numpy does not have it."""


class Tensor:
    """Placeholder of a tensor: a view of a storage, which is a key and an array."""

    def __init__(self, key: str, storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.key, self.storage, self.view = key, storage, (offset, shape, strides)


class Storage:
    """A storage, to which torch's pickles refer by a persistent ID."""

    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.array = key, array


def tensors(arrays: Mapping[str, np.ndarray]) -> OrderedDict[str, Any]:
    """A ``state_dict`` of arrays, each with its own storage."""
    found: OrderedDict[str, Any] = OrderedDict()
    for number, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        found[name] = Tensor(str(number), array.ravel(), 0, array.shape, strides)
    found._metadata = OrderedDict([("", {"version": 1})])  # type: ignore[attr-defined]
    return found


def write_zip(path: Path, content: Any, records: Mapping[str, bytes] | None = None, compression: int = 0) -> Path:
    """Write the current format; ``records`` replace or add members of the archive by name."""
    pickler = _Pickler(old=False)
    members = {
        "data.pkl": pickler.dumps(content),
        ".format_version": b"1",
        ".storage_alignment": b"64",
        "byteorder": b"little",
    }
    members |= {f"data/{key}": array.tobytes() for key, array in pickler.storages.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**members, "version": b"3\n", **(records or {})}.items():
            archive.writestr(f"{path.stem}/{name}", data)
    return path


def write_old(path: Path, content: Any) -> Path:
    """Write the format before torch 1.6."""
    pickler = _Pickler(old=True)
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(one, protocol=2) for one in (0x1950A86A20F9469CFC6C, 1001, machine))
    body = pickler.dumps(content) + pickle.dumps(sorted(pickler.storages), protocol=2)
    numbers = (np.int64(one.size).tobytes() + one.tobytes() for _, one in sorted(pickler.storages.items()))
    path.write_bytes(head + body + b"".join(numbers))
    return path


class _Pickler:
    def __init__(self, old: bool) -> None:
        self.storages: dict[str, np.ndarray] = {}
        self._old = old

    def dumps(self, content: Any) -> bytes:
        torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        utils._rebuild_tensor_v2 = _named("_rebuild_tensor_v2", "torch._utils")  # type: ignore[attr-defined]
        for kind in _KINDS.values():
            setattr(torch, kind, type(kind, (), {"__module__": "torch"}))
        recorded, old = self.storages, self._old

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                if not isinstance(value, Storage):
                    return None
                recorded[value.key] = value.array
                kind = getattr(torch, _KINDS[str(value.array.dtype)])
                return ("storage", kind, value.key, "cpu", value.array.size, *([None] if old else []))

            def reducer_override(self, value: Any) -> Any:
                if not isinstance(value, Tensor):
                    return NotImplemented
                storage = Storage(value.key, value.storage)
                return utils._rebuild_tensor_v2, (storage, *value.view, False, OrderedDict())

        stream = io.BytesIO()
        with patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
            Pickler(stream, protocol=2).dump(content)
        return stream.getvalue()


def _named(name: str, module: str) -> Any:
    def function() -> None:
        pass

    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    return function
