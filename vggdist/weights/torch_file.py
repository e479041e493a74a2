"""Safe reader of ``torch.save`` files with a ``state_dict``, without torch.

The current format is a zip archive: ``NAME/data.pkl`` is a pickle in which tensors refer to storages, and ``NAME/data/KEY``
has the values of a storage. The format before torch 1.6, used by torchvision's VGG files of 2017, is a sequence of pickles (a
magic number, a version, properties of the machine, the tensors, the keys of the storages), followed by the length (int64) and
the values of each storage. Both are read by an interpreter that calls no functions (:mod:`vggdist.config.pickles`).
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from vggdist.config.archives import stored_archive
from vggdist.config.pickles import Named, NamesError, PickleReader
from vggdist.weights.stored_array import ITEM_SIZES, MAX_ARRAYS, RAW, StoredArray

OLD_BEGINNING = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of the old format: the magic number."""
ZIP_BEGINNING = b"PK\x03\x04"
_STORAGES = {
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch DoubleStorage": "float64",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_TENSORS = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
_PARAMETERS = ("torch._utils _rebuild_parameter", "torch.nn.parameter Parameter")
_DICTIONARY = "collections OrderedDict"
_LONGEST_PICKLE = 2**23
"""Maximum size in bytes; VGG-19 with batch normalisation has about 15,000."""
_ADVICE = "save only the parameters: torch.save(model.state_dict(), PATH)"


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    count: int

    @property
    def num_bytes(self) -> int:
        return self.count * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if not all(type(one) is int and one >= 0 for one in numbers) or len(self.shape) != len(self.strides):
            raise ValueError("a tensor's sizes are not integers from 0 on")
        size = math.prod(self.shape)
        last = self.offset + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides))
        if size > self.storage.count or (size and last >= self.storage.count):
            raise ValueError(f"a tensor of shape {self.shape} exceeds its storage of {self.storage.count} values")


@contextmanager
def read_zip(file: BinaryIO) -> Iterator[dict[str, StoredArray]]:
    """Open a file and return its tensors by name; their values can be read within the context.

    Raises:
        ValueError: the file is truncated, or does not contain a dictionary of tensors.
        Exception: errors of ``zipfile`` for a damaged archive.
    """
    with stored_archive(file) as archive:
        records = {member.filename: member.file_size for member in archive.infolist()}
        found = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1 or records[found[0]] > _LONGEST_PICKLE:
            raise ValueError("it is a zip archive, but not from torch.save: it has no data.pkl")
        root = found[0].removesuffix("data.pkl")
        if f"{root}byteorder" in records and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its values are not little endian")
        tensors = _tensors(_TorchReader(), archive.read(found[0]))
        for storage in {tensor.storage for tensor in tensors.values()}:
            record = f"{root}data/{storage.key}"
            if records.get(record) != storage.num_bytes:
                has = "is missing" if record not in records else f"has {records[record]} bytes, not {storage.num_bytes}"
                raise ValueError(f"record {record} {has}")
        yield {name: _array(name, tensor, _record(archive, root, tensor)) for name, tensor in tensors.items()}


def read_old(file: BinaryIO) -> dict[str, StoredArray]:
    """Read the tensors of a file in the old format by name; it must stay open as long as values are read.

    Raises:
        ValueError: the file is truncated, or does not contain a dictionary of tensors.
    """
    file.seek(len(OLD_BEGINNING))
    head = io.BytesIO(file.read(_LONGEST_PICKLE))
    if _TorchReader().read(head) != 1001:
        raise ValueError("it has an unknown version")
    machine = _TorchReader().read(head)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("its values are not little endian")
    tensors = _tensors(_TorchReader(), head)
    keys = _TorchReader().read(head)
    offsets = _offsets(file, len(OLD_BEGINNING) + head.tell(), keys, {tensor.storage for tensor in tensors.values()})

    def reader(storage: _Storage) -> Callable[[], bytes]:
        def read() -> bytes:
            file.seek(offsets[storage.key])
            return file.read(storage.num_bytes)

        return read

    return {name: _array(name, tensor, reader(tensor.storage)) for name, tensor in tensors.items()}


def _offsets(file: BinaryIO, begin: int, keys: Any, used: Collection[_Storage]) -> dict[str, int]:
    """Offset of the values of each storage."""
    size, offsets, storages = os.fstat(file.fileno()).st_size, {}, {storage.key: storage for storage in used}
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not known or sorted(keys) != sorted(storage.key for storage in used):
        raise ValueError("its storages do not match its tensors")
    for key in keys:
        file.seek(begin)
        offsets[key] = begin + 8
        begin += 8 + storages[key].num_bytes
        if begin > size:
            raise ValueError(f"it ends within storage {key:.40}")
        if struct.unpack("<q", file.read(8)) != (storages[key].count,):
            raise ValueError(f"the size of storage {key:.40} differs from that in its tensors")
    return offsets


class _TorchReader(PickleReader):
    def __init__(self) -> None:
        super().__init__([*_STORAGES, *_TENSORS, *_PARAMETERS, _DICTIONARY], "file of torch.save")

    def called(self, function: Named, arguments: tuple[Any, ...]) -> Any:
        if function.name == _DICTIONARY and len(arguments) <= 1:
            pairs = dict[str, Any]()
            for key, value in arguments[0] if arguments else ():  # pairs as arguments: written by Python 2
                if not isinstance(key, str):
                    raise ValueError("a key of a dictionary is not a string")
                pairs[key] = value
            return pairs
        if function.name in _TENSORS and len(arguments) in (4, 6) and isinstance(arguments[0], _Storage):
            return _Tensor(*arguments[:4])
        if function.name in _PARAMETERS and isinstance(arguments[0], _Tensor):
            return arguments[0]
        return super().called(function, arguments)

    def built(self, instance: Any, state: Any) -> None:
        """Ignore the attributes of dictionaries and parameters."""
        if not isinstance(instance, (dict, _Tensor)):
            super().built(instance, state)

    def persistent(self, identity: Any) -> _Storage:
        what, kind, key, _, count, *view = identity
        known = what == "storage" and isinstance(kind, Named) and kind.name in _STORAGES and view in ([], [None])
        if not known or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("it has an unsupported kind of storage")
        return _Storage(key, _STORAGES[kind.name], count)


def _tensors(reader: PickleReader, content: bytes | BinaryIO) -> dict[str, _Tensor]:
    try:
        found = reader.read(content)
    except NamesError as error:
        raise ValueError(f"it contains {error}, which was not executed; {_ADVICE}") from error
    if not isinstance(found, dict) or len(found) > MAX_ARRAYS:
        raise ValueError(f"it does not contain a dictionary of tensors; {_ADVICE}")
    tensors = {name: one for name, one in found.items() if isinstance(one, _Tensor)}
    if not tensors:
        keys = ", ".join(map(repr, list(found)[:5])) or "nothing"
        raise ValueError(f"it contains {keys}, but no tensor as a direct entry; {_ADVICE}")
    return tensors


def _record(archive: zipfile.ZipFile, root: str, tensor: _Tensor) -> Callable[[], bytes]:
    return lambda: archive.read(f"{root}data/{tensor.storage.key}")


def _array(name: str, tensor: _Tensor, read: Callable[[], bytes]) -> StoredArray:
    def load() -> NDArray[Any]:
        numbers = np.frombuffer(read(), RAW[tensor.storage.dtype])
        if numbers.size != tensor.storage.count:  # as_strided does not check bounds
            raise ValueError(f"{name} is truncated")
        strides = [stride * numbers.itemsize for stride in tensor.strides]
        return as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)

    return StoredArray(name, tensor.shape, tensor.storage.dtype, load)
