"""What the ranks of one host hold once: made by one of them, and mapped by the others from a file without a name."""

from __future__ import annotations

import io
import logging
import mmap
import os
import pickle
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from vggdist.world.process import World

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")
_ALIGNMENT = 64  # bytes: a cache line, and enough for any type of numpy


def once_per_host(world: World, make: Callable[[], _Value], held: _Value | None = None) -> _Value:
    """A value that one rank of each host makes for all of them; every rank must call this.

    Its arrays lie in memory once and are read-only; what else it consists of is copied. A rank that is alone on its host
    makes a plain value, and so does one that cannot reach the others' memory, as in a container of its own.

    Args:
        make: may fail as in :meth:`World.together`; then it fails on all ranks.
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
    with _published(made) if shares and world.rank == root else nullcontext() as parcel:
        offered = world.gather(asdict(parcel) if parcel is not None else None)[root]

        def receive() -> _Value:
            value = made if made is not None else held
            if offered is not None:
                try:
                    return _Parcel(**offered).open()
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
    """Where a value lies: a pickle (protocol 5), and after it the arrays in it.

    Attributes:
        name: drawn at random, so that a process of another machine or another time is not taken for the one that is meant.
        sizes: of the pickle and of each array, in bytes.
    """

    process: int
    descriptor: int
    name: str
    sizes: Sequence[int]

    def open(self) -> Any:
        """Map the value; ``OSError`` where it cannot be reached."""
        descriptor = os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.name not in found:
                raise FileNotFoundError(f"{found} is there in place of {self.name}")
            content = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
        finally:
            os.close(descriptor)
        pickled, *arrays = (content[start : start + size] for start, size in zip(_starts(self.sizes), self.sizes))
        return pickle.loads(pickled, buffers=arrays)


@contextmanager
def _published(value: object) -> Iterator[_Parcel | None]:
    """Let other processes of this user open a value meanwhile; None where the system refuses.

    The file has no name and ends with the last process that maps it, so nothing is left behind however they end. The size of
    /dev/shm, 64 MiB in many containers, does not limit it.
    """
    arrays: list[pickle.PickleBuffer] = []
    contents = [memoryview(pickle.dumps(value, protocol=5, buffer_callback=arrays.append))]
    contents += [array.raw() for array in arrays]
    sizes, name = [content.nbytes for content in contents], f"vggdist-{secrets.token_hex(8)}"
    with ExitStack() as stack:
        parcel = None
        try:
            file = stack.enter_context(open(os.memfd_create(name), "wb", buffering=0))
            for start, content in zip(_starts(sizes), contents):
                _write_at(file, start, content)
            parcel = _Parcel(os.getpid(), file.fileno(), name, sizes)
        except (AttributeError, OSError) as error:  # another system than Linux, no memory, or forbidden in this container
            logger.warning("each rank holds the data by itself: memory cannot be shared: %s", error)
        yield parcel


def _write_at(file: io.FileIO, start: int, content: memoryview) -> None:
    """Write at a place; the system takes at most 2 GiB at once."""
    file.seek(start)
    while content:
        content = content[file.write(content) :]


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each content begins."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return starts
