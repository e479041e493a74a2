"""This process as one of Horovod's ranks: its start, its device, and the few collectives that the rest uses.

Two habits of this file come from Horovod's MXNet binding. ``hvd.broadcast_`` can crash (it logs the tensor's name after the
completion callback may have freed it), so a broadcast here is a sum in which only the root is not zero, over bit patterns
and therefore exact. And a name must be unique while it is in flight, so each collective takes the next number.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mxnet as mx
import numpy as np

# Horovod opens MXNet's library, in which there is another libjpeg, to all that is loaded later. Pillow must be there before:
# else it calls that one, and no JPEG decodes.
import PIL._imaging  # noqa: F401
from mxnet.base import c_handle_array, c_str, check_call

from vggdist.collectives.gloo_address import on_requested_interface
from vggdist.collectives.initialization import initialize
from vggdist.config.errors import BeforeStart, RequestError, RunError, agreed
from vggdist.environment import gpus
from vggdist.environment.network_interfaces import interfaces_of, open_sockets
from vggdist.environment.scheduling import starting_patient_threads
from vggdist.launcher import slurm
from vggdist.launcher.topology import from_environment, launcher

try:
    import horovod.mxnet as hvd
    from horovod.mxnet.mpi_ops import MPI_MXNET_LIB_CTYPES
except ImportError as error:
    raise RunError(
        "Horovod was built without MXNet, as a plain `pip install` builds it. Build it again with:\n"
        "  pip install 'numpy==1.23.5' 'mxnet==1.9.1' 'cmake<4' 'setuptools<81' wheel cffi cloudpickle psutil pyyaml "
        "packaging\n"
        "  HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 pip install "
        f"--no-build-isolation --no-cache-dir --force-reinstall --no-deps horovod==0.28.1\n({error})"
    ) from None

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Collectives(Protocol):
    """What the gradients' reduction needs of :class:`World`."""

    size: int

    def reduce(self, arrays: list[mx.nd.NDArray], name: str) -> None:
        """See :meth:`World.reduce`."""

    def allgather(self, arrays: list[mx.nd.NDArray], outs: list[mx.nd.NDArray], name: str) -> None:
        """See :meth:`World.allgather`."""


class World:
    """The ranks of this run, seen from one of them.

    Attributes:
        connections: names of the sockets that Horovod opened (:func:`~vggdist.environment.network_interfaces.open_sockets`).
    """

    def __init__(self) -> None:
        """Start Horovod. Call it early: a rank that comes late by Horovod's timeout (30 s on Gloo) fails the start.

        Raises:
            BeforeStart: on every rank, when Horovod does not connect the processes that a launcher started together.
            RunError: see :func:`~vggdist.collectives.initialization.meet`.
        """
        if not slurm.connects(os.environ):
            raise agreed(BeforeStart(_unconnected(connected=1)))  # Open MPI would end the process in initialize(hvd.init)
        # A group of arrays is reduced in a fixed order and by itself, whatever else is ready: sums repeat bit for bit.
        os.environ["HOROVOD_DISABLE_GROUP_FUSION"] = "1"
        before = open_sockets().keys()
        with starting_patient_threads(), on_requested_interface(os.environ):
            initialize(hvd.init)
        self.connections = open_sockets().keys() - before
        self._counter = itertools.count()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.controller = "none" if self.size == 1 else "MPI" if hvd.mpi_enabled() else "Gloo"
        if "HOROVOD_ELASTIC" not in os.environ and self.size != from_environment(os.environ).size:
            raise agreed(BeforeStart(_unconnected(self.size)))

    def alone(self) -> World:
        """This rank, under its own number, as if there were no other: what it then sums, it sums with nobody."""
        world = copy.copy(self)
        world.size = 1
        return world

    def interfaces(self) -> list[str]:
        """The interfaces by which Horovod has connected this rank with the others."""
        return interfaces_of(number for name, number in open_sockets().items() if name in self.connections)

    def hosts(self) -> int:
        """The hosts on which the ranks are; every rank must call this."""
        return int(self.gather(hvd.cross_size())[0])  # a rank counts only the hosts that have a rank of its local number

    @property
    def is_root(self) -> bool:
        """Whether this rank writes files and the console."""
        return self.rank == 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum an array over the ranks, exactly for integers; every rank gets the result.

        Args:
            values: any shape; int32, int64, float32 or float64.
        """
        if self.size == 1:
            return values.copy()
        tensor = mx.nd.array(np.atleast_1d(values), dtype=values.dtype)
        hvd.allreduce_(tensor, average=False, name=f"world.{next(self._counter)}")
        return tensor.asnumpy().reshape(values.shape)

    def reduce(self, arrays: list[mx.nd.NDArray], name: str) -> None:
        """Sum arrays over the ranks, in place, as one group, in a fixed order and without waiting for them.

        Args:
            name: of the reduction; one that is in flight must not be used again before it has arrived.
        """
        if self.size > 1:
            hvd.grouped_allreduce_(arrays, average=False, name=name)

    def allgather(self, arrays: list[mx.nd.NDArray], outs: list[mx.nd.NDArray], name: str) -> None:
        """Gather the rows of all ranks, in the order of ranks, as one group and without waiting for them.

        ``hvd.grouped_allgather`` waits, for it learns how many rows there are when they are there.

        Args:
            arrays: ``(N, M)``, each of the same shape on every rank.
            outs: ``(size * N, M)`` for each, of its type; whoever calls this must keep them until they have arrived.
            name: of the collective; one that is in flight must not be used again before it has arrived.
        """
        sent, received, count = c_handle_array(arrays), c_handle_array(outs), ctypes.c_int(len(arrays))
        library, priority, process_set = MPI_MXNET_LIB_CTYPES, ctypes.c_int(0), ctypes.c_int(0)
        check_call(library.horovod_mxnet_allgather_async(sent, received, c_str(name), priority, process_set, count))

    def broadcast(self, values: np.ndarray, root: int = 0) -> np.ndarray:
        """One rank's array on every rank, bit for bit; shape and dtype must be the same everywhere."""
        if self.size == 1:
            return values.copy()
        raw = np.frombuffer(np.ascontiguousarray(values).tobytes().ljust(-(-values.nbytes // 4) * 4, b"\0"), np.int32)
        total = self.sum(raw if self.rank == root else np.zeros_like(raw))
        return np.frombuffer(total.tobytes()[: values.nbytes], values.dtype).reshape(values.shape).copy()

    def gather(self, value: Any) -> list[Any]:
        """Collect one JSON-serialisable value of each rank, in the order of ranks; every rank gets the list."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        lengths = np.zeros(self.size, np.int32)
        lengths[self.rank] = len(text)
        lengths = self.sum(lengths)
        table = np.zeros((self.size, int(lengths.max())), np.int32)
        table[self.rank, : len(text)] = text
        table = self.sum(table)
        return [json.loads(row[:length].astype(np.uint8).tobytes()) for row, length in zip(table, lengths)]

    def together(self, action: Callable[[], _Result], acts: bool = True) -> _Result:
        """Do something that may fail on some ranks only, and fail on all of them if it does.

        Every rank must call this at the same place. Without it a rank that leaves early would be killed, or kill the
        others, before the message is read.

        Args:
            acts: False on a rank for which another one acts; it gets None.

        Raises:
            RunError: on every rank, with the same text, when any rank raised one.
            RequestError: the same where no rank raised worse than that (or an ``OSError``).
        """
        result, message, failed = None, None, False
        try:
            result = action() if acts else None
        except (RequestError, RunError, OSError) as error:
            message, failed = str(error), isinstance(error, RunError)
        acted, messages, failures = zip(*self.gather([acts, message, failed]))
        if any(messages):
            kind = RunError if any(failures) else RequestError
            raise agreed(kind(_who_said_what(acted, messages)))
        return result  # type: ignore[return-value]

    @contextlib.contextmanager
    def timeline(self, path: Path) -> Iterator[None]:
        """Let Horovod record meanwhile what it does, in Chrome's trace format. Every rank must call this, and wait for its
        own reductions within it. One rank reduces nothing and leaves no file.

        Args:
            path: of the file, which rank 0 writes. ``HOROVOD_TIMELINE`` must have been ``DYNAMIC`` when Horovod started.
        """
        if self.size > 1 and self.is_root:
            hvd.start_timeline(str(path))
        self.barrier()
        yield
        self.barrier()
        if self.size > 1 and self.is_root:
            hvd.stop_timeline()  # writes what is left
        self.barrier()

    def require_same(
        self, what: str, value: str, advice: str = "start every rank with the same files and the same code"
    ) -> None:
        """Compare a text over the ranks.

        Args:
            advice: what to do about a difference, for the message.

        Raises:
            RunError: on every rank, naming the first rank whose text differs from rank 0's, and the first difference.
        """
        for rank, other in enumerate(values := self.gather(value)):
            if other != values[0]:
                here, there = _first_difference(values[0], other)
                raise agreed(RunError(f"rank {rank} differs from rank 0 in {what}: {there!r} instead of {here!r}; {advice}"))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum(np.zeros(1, np.int32))


def _unconnected(connected: int) -> str:
    name, started = launcher(os.environ) or "", from_environment(os.environ).size
    ways = {
        "srun": "`srun --mpi=pmix` with MPI, or `vggdist rendezvous -- srun --mpi=none` without (launch/slurm has both)",
        "horovodrun": "the same Horovod on every host, and no HOROVOD_* of another job in the environment",
    }
    way = ways.get(name, "`horovodrun` in its place, or a Horovod built with this launcher's MPI (docs/install.md)")
    return (
        f"{name} started {started} processes, but Horovod connects {connected}: each would train alone, as rank 0 of 1. "
        f"Use {way}"
    )


def _who_said_what(acted: Sequence[bool], messages: Sequence[str | None]) -> str:
    """One text when all ranks that acted say the same; otherwise each message with its ranks."""
    said = {message for acts, message in zip(acted, messages) if acts}
    if len(said) == 1:
        return str(said.pop())
    failed = sorted({message for message in messages if message})
    ranks = {message: [str(rank) for rank, said in enumerate(messages) if said == message] for message in failed}
    return "; ".join(f"rank {', '.join(ranks[message])}: {message}" for message in failed)


def _first_difference(one: str, other: str) -> tuple[str, str]:
    for left, right in itertools.zip_longest(one.splitlines(), other.splitlines(), fillvalue="nothing"):
        if left != right:
            return left, right
    return one, other


def choose_device(wanted: str, local_rank: int) -> mx.Context:
    """The device of this rank: ``cpu``, ``gpu``, or for ``auto`` the GPU of the local rank when MXNet can run on it.

    Raises:
        RequestError: when a GPU is asked for and there is none, or MXNet has no code for it.
    """
    visible = mx.context.num_gpus() if wanted != "cpu" else 0
    if wanted == "gpu" and visible == 0:
        raise RequestError(
            "run.device is gpu, but MXNet sees none: install it by launch/gpu/install.sh, or use --run.device cpu"
        )
    if visible == 0:
        return mx.cpu()
    index = local_rank % visible
    refusal = gpus.refusal(index)
    if refusal is None:
        return mx.gpu(index)
    if wanted == "gpu":
        raise RequestError(f"run.device is gpu, but {refusal}")
    logger.warning("run.device auto takes the CPU: %s", refusal)
    return mx.cpu()


def versions() -> dict[str, str]:
    """What this run depends on."""
    import horovod

    return {"python": sys.version.split()[0], "mxnet": mx.__version__, "horovod": horovod.__version__, "numpy": np.__version__}
