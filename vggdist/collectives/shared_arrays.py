"""Arrays that the ranks of one host hold once: made by one of them, and mapped by the others from a file without a name."""

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
from typing import TypeVar

import numpy as np

from vggdist.collectives.world import World

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")
_ALIGNMENT = 64  # bytes: a cache line, and enough for any type of numpy


Arrays = Mapping[str, np.ndarray]


def once_per_host(
    world: World,
    make: Callable[[], _Value],
    to_arrays: Callable[[_Value], Arrays],
    from_arrays: Callable[[Arrays], _Value],
    held: _Value | None = None,
) -> _Value:
    """A value that one rank of each host makes for all of them; every rank must call this.

    Its arrays lie in memory once and are read-only. A rank that is alone on its host makes a plain value, and so does one
    that cannot reach the others' memory, as in a container of its own.

    Args:
        make, from_arrays: may fail as in :meth:`World.together`; then it fails on all ranks.
        to_arrays: takes the value apart, and ``from_arrays`` puts it together again in another process.
        held: the value, where this process has it from before the ranks changed.
    """
    here = _host()
    told = world.gather([here, held is not None])
    if all(holds for _, holds in told):
        return held  # type: ignore[return-value]
    group = [rank for rank, (host, _) in enumerate(told) if here is not None and host == here] or [world.rank]
    root = next((rank for rank in group if told[rank][1]), group[0])
    made = world.together(lambda: make() if held is None else held, acts=world.rank == root)
    shares = len(group) > 1 and not all(told[rank][1] for rank in group)
    with _published(to_arrays(made)) if shares and world.rank == root else nullcontext() as parcel:
        offered = world.gather(asdict(parcel) if parcel is not None else None)[root]

        def receive() -> _Value:
            value = made if made is not None else held
            if offered is not None:
                try:
                    return from_arrays(_Parcel(**offered).open())
                except OSError as error:
                    logger.warning("this rank holds the data by itself: it cannot map rank %d's: %s", root, error)
            return value if value is not None else make()

        return world.together(receive)


def _host() -> str | None:
    """Processes that tell the same see each other in /proc; None where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    except OSError:
        return None


@dataclass(frozen=True)
class _Parcel:
    """Where arrays lie, one after the other.

    Attributes:
        name: drawn at random, so that a process of another machine or another time is not taken for the one that is meant.
        contents: name, type as numpy writes it, and shape of each array.
    """

    process: int
    descriptor: int
    name: str
    contents: Sequence[tuple[str, str, Sequence[int]]]

    def open(self) -> Arrays:
        """Map the arrays; ``OSError`` where they cannot be reached."""
        descriptor = os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.name not in found:
                raise FileNotFoundError(f"{found} is there in place of {self.name}")
            content = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        arrays: dict[str, np.ndarray] = {}
        start = 0
        for name, kind, shape in self.contents:
            arrays[name] = np.ndarray(tuple(shape), np.dtype(kind), content, start)
            start += _aligned(arrays[name].nbytes)
        return arrays


@contextmanager
def _published(arrays: Arrays) -> Iterator[_Parcel | None]:
    """Let other processes of this user map arrays meanwhile; None where the system refuses.

    The file has no name and ends with the last process that maps it, so nothing is left behind however they end. The size of
    /dev/shm, 64 MiB in many containers, does not limit it.
    """
    contents = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    with ExitStack() as stack:
        parcel, name, start = None, f"vggdist-{secrets.token_hex(8)}", 0
        try:
            file = stack.enter_context(open(os.memfd_create(name), "wb", buffering=0))
            for array in arrays.values():
                _write_at(file, start, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                start += _aligned(array.nbytes)
            file.truncate(max(start, 1))
            parcel = _Parcel(os.getpid(), file.fileno(), name, contents)
        except (AttributeError, OSError) as error:  # another system than Linux, no memory, or forbidden in this container
            logger.warning("each rank holds the data by itself: memory cannot be shared: %s", error)
        yield parcel


def _write_at(file: io.FileIO, start: int, content: memoryview) -> None:
    """Write at a place; the system takes at most 2 GiB at once."""
    file.seek(start)
    while content:
        content = content[file.write(content) :]


def _aligned(size: int) -> int:
    """Bytes from the beginning of an array of so many to that of the next one."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
