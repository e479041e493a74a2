"""Arrays in shared memory: created by one rank of each host, and mapped by the others from an anonymous file (memfd)."""

from __future__ import annotations

import io
import logging
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vggdist.collectives.world import World

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")
_ALIGNMENT = 64  # bytes: a cache line, and enough for any dtype


Arrays = Mapping[str, NDArray[Any]]


def once_per_host(
    world: World,
    make: Callable[[], _Value],
    to_arrays: Callable[[_Value], Arrays],
    from_arrays: Callable[[Arrays], _Value],
    held: _Value | None = None,
) -> _Value:
    """A value that one rank of each host creates for all ranks of the host; every rank must call this.

    Its arrays are in memory once per host and read-only. A rank creates the value for itself if it is the only one of its
    host, or if it cannot map the memory of the others (separate containers).

    Args:
        make, from_arrays: may fail as in :meth:`World.together`; then it fails on all ranks.
        to_arrays: converts the value to arrays, from which ``from_arrays`` rebuilds it in another process.
        held: the value, if this process has it from before the ranks changed.
    """
    host = _host()
    ranks = world.gather([host, held is not None])
    if all(has_value for _, has_value in ranks):
        return held  # type: ignore[return-value]
    group = [rank for rank, (other, _) in enumerate(ranks) if host is not None and other == host] or [world.rank]
    root = next((rank for rank in group if ranks[rank][1]), group[0])
    made = world.together(lambda: make() if held is None else held, acts=world.rank == root)
    shares = len(group) > 1 and not all(ranks[rank][1] for rank in group)
    with _shared(to_arrays(made)) if shares and world.rank == root else nullcontext() as own_file:
        file = world.gather(asdict(own_file) if own_file is not None else None)[root]

        def receive() -> _Value:
            value = made if made is not None else held
            if file is not None:
                try:
                    return from_arrays(_SharedFile(**file).open())
                except OSError as error:
                    logger.warning("this rank keeps its own copy of the data: it cannot map rank %d's: %s", root, error)
            return value if value is not None else make()

        return world.together(receive)


def _host() -> str | None:
    """Identifies the processes that see each other in /proc; None without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    except OSError:
        return None


@dataclass(frozen=True)
class _SharedFile:
    """An open file of a process with arrays, one after the other.

    Attributes:
        name: random, so that a file of a process with the same id on another machine is not taken for this one.
        contents: name, dtype string, and shape of each array.
    """

    process: int
    descriptor: int
    name: str
    contents: Sequence[tuple[str, str, Sequence[int]]]

    def open(self) -> Arrays:
        """Map the arrays; ``OSError`` if that is impossible."""
        descriptor = os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.name not in found:
                raise FileNotFoundError(f"found {found} instead of {self.name}")
            content = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        arrays: dict[str, NDArray[Any]] = {}
        start = 0
        for name, dtype, shape in self.contents:
            arrays[name] = np.ndarray(tuple(shape), np.dtype(dtype), content, start)
            start += _aligned(arrays[name].nbytes)
        return arrays


@contextmanager
def _shared(arrays: Arrays) -> Iterator[_SharedFile | None]:
    """Context in which other processes of this user can map the arrays; None if the system does not allow it.

    The file has no name and is freed with the last process that maps it, even if processes are killed. The size of /dev/shm,
    64 MiB in many containers, does not limit it.
    """
    contents = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    with ExitStack() as stack:
        shared, name, start = None, f"vggdist-{secrets.token_hex(8)}", 0
        try:
            file = stack.enter_context(open(os.memfd_create(name), "wb", buffering=0))
            for array in arrays.values():
                _write_at(file, start, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                start += _aligned(array.nbytes)
            file.truncate(max(start, 1))
            shared = _SharedFile(os.getpid(), file.fileno(), name, contents)
        except (AttributeError, OSError) as error:  # not Linux, out of memory, or forbidden in this container
            logger.warning("each rank keeps its own copy of the data: memory cannot be shared: %s", error)
        yield shared


def _write_at(file: io.FileIO, start: int, content: memoryview) -> None:
    """Write at an offset, in several calls: one call writes at most 2 GiB."""
    file.seek(start)
    while content:
        content = content[file.write(content) :]


def _aligned(size: int) -> int:
    """Size in bytes, rounded up to the alignment."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
