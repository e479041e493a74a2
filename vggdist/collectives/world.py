"""This process as one of Horovod's ranks: its start, its device, and the collectives.

Two workarounds for Horovod's MXNet binding: ``hvd.broadcast_`` can crash (it logs the tensor's name after the completion
callback may have freed it), so :meth:`World.broadcast` sums the bit patterns with zeros on all ranks but the root, which is
exact. And the name of a tensor must be unique while it is in flight, so each collective has a number in its name.
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

# Horovod loads MXNet's library with global symbols, including another version of libjpeg. Pillow must be loaded before:
# otherwise it calls that version, and no JPEG decodes.
import PIL._imaging  # noqa: F401
from mxnet.base import c_handle_array, c_str, check_call
from numpy.typing import NDArray

from vggdist.collectives.gloo_address import on_requested_interface
from vggdist.collectives.initialization import initialize
from vggdist.config.errors import BeforeStart, RequestError, RunError, agreed
from vggdist.config.schema import Precision
from vggdist.environment import gpus
from vggdist.environment.cores import has_instructions
from vggdist.environment.network_interfaces import interfaces_of, open_sockets
from vggdist.environment.scheduling import batch_policy_for_new_threads
from vggdist.launcher import slurm
from vggdist.launcher.topology import from_environment, launcher

try:
    import horovod.mxnet as hvd
    from horovod.mxnet.mpi_ops import MPI_MXNET_LIB_CTYPES
except ImportError as error:
    raise RunError(
        "Horovod was built without MXNet support, which is the default of `pip install`. Build it again with:\n"
        "  pip install 'numpy==1.23.5' 'mxnet==1.9.1' 'cmake<4' 'setuptools<81' wheel cffi cloudpickle psutil pyyaml "
        "packaging\n"
        "  HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 pip install "
        f"--no-build-isolation --no-cache-dir --force-reinstall --no-deps horovod==0.28.1\n({error})"
    ) from None

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Collectives(Protocol):
    """The part of :class:`World` that the gradient reduction uses."""

    size: int

    def reduce(self, arrays: list[mx.nd.NDArray], name: str) -> None:
        """See :meth:`World.reduce`."""

    def allgather(self, arrays: list[mx.nd.NDArray], outs: list[mx.nd.NDArray], name: str) -> None:
        """See :meth:`World.allgather`."""


class World:
    """Rank, size and collectives of this process in Horovod's process group.

    Attributes:
        connections: names of the sockets that Horovod opened (:func:`~vggdist.environment.network_interfaces.open_sockets`).
    """

    def __init__(self) -> None:
        """Start Horovod. Call it early: the start fails if a rank is late by Horovod's timeout (30 s on Gloo).

        Raises:
            BeforeStart: on every rank, if Horovod does not connect the processes that a launcher started together.
            RunError: see :func:`~vggdist.collectives.initialization.initialize`.
        """
        if not slurm.can_connect(os.environ):
            raise agreed(BeforeStart(_not_connected(connected=1)))  # in hvd.init() Open MPI would end the process
        # Each group of arrays is reduced separately and in a fixed order, so that sums are reproducible bit for bit.
        os.environ["HOROVOD_DISABLE_GROUP_FUSION"] = "1"
        before = open_sockets().keys()
        with batch_policy_for_new_threads(), on_requested_interface(os.environ):
            initialize(hvd.init)
        self.connections = open_sockets().keys() - before
        self._counter = itertools.count()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.controller = "none" if self.size == 1 else "MPI" if hvd.mpi_enabled() else "Gloo"
        if "HOROVOD_ELASTIC" not in os.environ and self.size != from_environment(os.environ).size:
            raise agreed(BeforeStart(_not_connected(self.size)))

    def alone(self) -> World:
        """A world of size 1 in which this process keeps its rank. Its collectives do not communicate."""
        world = copy.copy(self)
        world.size = 1
        return world

    def interfaces(self) -> list[str]:
        """The network interfaces of Horovod's connections from this rank."""
        return interfaces_of(number for name, number in open_sockets().items() if name in self.connections)

    def hosts(self) -> int:
        """The number of hosts; every rank must call this."""
        return int(self.gather(hvd.cross_size())[0])  # cross_size counts the hosts that have a rank with this local rank

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which writes files and the console."""
        return self.rank == 0

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum an array over the ranks, exactly for integers; returns the sum on every rank.

        Args:
            values: any shape; int32, int64, float32 or float64.
        """
        if self.size == 1:
            return values.copy()
        tensor = mx.nd.array(np.atleast_1d(values), dtype=values.dtype)
        hvd.allreduce_(tensor, average=False, name=f"world.{next(self._counter)}")
        return tensor.asnumpy().reshape(values.shape)

    def reduce(self, arrays: list[mx.nd.NDArray], name: str) -> None:
        """Sum arrays over the ranks, in place, as one group and in a fixed order. Returns before the result is ready.

        Args:
            name: of the reduction; must not be used again while it is in flight.
        """
        if self.size > 1:
            hvd.grouped_allreduce_(arrays, average=False, name=name)

    def allgather(self, arrays: list[mx.nd.NDArray], outs: list[mx.nd.NDArray], name: str) -> None:
        """Gather the rows of all ranks, in the order of ranks, as one group. Returns before the result is ready.

        ``hvd.grouped_allgather`` would block, because it needs the result to learn the number of rows.

        Args:
            arrays: ``(N, M)``, each of the same shape on every rank.
            outs: ``(size * N, M)`` for each, of its dtype; the caller must keep them until the result is ready.
            name: of the collective; must not be used again while it is in flight.
        """
        sent, received, count = c_handle_array(arrays), c_handle_array(outs), ctypes.c_int(len(arrays))
        library, priority, process_set = MPI_MXNET_LIB_CTYPES, ctypes.c_int(0), ctypes.c_int(0)
        check_call(library.horovod_mxnet_allgather_async(sent, received, c_str(name), priority, process_set, count))

    def broadcast(self, values: NDArray[Any], root: int = 0) -> NDArray[Any]:
        """The root's array on every rank, bit for bit; shape and dtype must be the same on all ranks."""
        if self.size == 1:
            return values.copy()
        raw = np.frombuffer(np.ascontiguousarray(values).tobytes().ljust(-(-values.nbytes // 4) * 4, b"\0"), np.int32)
        total = self.sum(raw if self.rank == root else np.zeros_like(raw))
        return np.frombuffer(total.tobytes()[: values.nbytes], values.dtype).reshape(values.shape).copy()

    def gather(self, value: Any) -> list[Any]:
        """Collect one JSON-serialisable value of each rank, in the order of ranks; returns the list on every rank."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        lengths = np.zeros(self.size, np.int32)
        lengths[self.rank] = len(text)
        lengths = self.sum(lengths)
        table = np.zeros((self.size, int(lengths.max())), np.int32)
        table[self.rank, : len(text)] = text
        table = self.sum(table)
        return [json.loads(row[:length].astype(np.uint8).tobytes()) for row, length in zip(table, lengths)]

    def together(self, action: Callable[[], _Result], acts: bool = True) -> _Result:
        """Call a function on the ranks; if it fails on any rank, raise the same error on all ranks.

        Every rank must call this at the same point. Otherwise a launcher would kill the other ranks when the first one exits,
        perhaps before its message is printed.

        Args:
            acts: False on a rank that does not call the function; it returns None.

        Raises:
            RunError: on every rank, with the same text, if any rank raised one.
            RequestError: likewise, if ranks raised only ``RequestError`` or ``OSError``.
        """
        result, message, failed = None, None, False
        try:
            result = action() if acts else None
        except (RequestError, RunError, OSError) as error:
            message, failed = str(error), isinstance(error, RunError)
        acted, messages, failures = zip(*self.gather([acts, message, failed]))
        if any(messages):
            kind = RunError if any(failures) else RequestError
            raise agreed(kind(_merge_messages(acted, messages)))
        return result  # type: ignore[return-value]

    @contextlib.contextmanager
    def timeline(self, path: Path) -> Iterator[None]:
        """Context in which Horovod records its timeline, in Chrome's trace format. Every rank must enter it, and wait for its
        own reductions within it. With one rank there is no file.

        Args:
            path: of the file, which rank 0 writes. ``HOROVOD_TIMELINE`` must be ``DYNAMIC`` when Horovod starts.
        """
        if self.size > 1 and self.is_root:
            hvd.start_timeline(str(path))
        self.barrier()
        yield
        self.barrier()
        if self.size > 1 and self.is_root:
            hvd.stop_timeline()  # flushes the file
        self.barrier()

    def require_same(
        self, what: str, value: str, advice: str = "start every rank with the same files and the same code"
    ) -> None:
        """Require that a text is the same on all ranks.

        Args:
            what: name of the text, for the message.
            advice: what to do about a difference, for the message.

        Raises:
            RunError: on every rank, with the first rank whose text differs from rank 0's, and the first difference.
        """
        for rank, other in enumerate(values := self.gather(value)):
            if other != values[0]:
                expected, found = _first_difference(values[0], other)
                raise agreed(
                    RunError(f"rank {rank} differs from rank 0 in {what}: {found!r} instead of {expected!r}; {advice}")
                )

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.sum(np.zeros(1, np.int32))


def _not_connected(connected: int) -> str:
    name, started = launcher(os.environ) or "", from_environment(os.environ).size
    remedies = {
        "srun": "`srun --mpi=pmix` with MPI, or `vggdist rendezvous -- srun --mpi=none` without (launch/slurm has both)",
        "horovodrun": "the same Horovod on every host, and no HOROVOD_* of another job in the environment",
    }
    remedy = remedies.get(name, "`horovodrun` instead, or a Horovod built with this launcher's MPI (docs/install.md)")
    return (
        f"{name} started {started} processes, but Horovod connects {connected}: each would train alone, as rank 0 of 1. "
        f"Use {remedy}"
    )


def _merge_messages(acted: Sequence[bool], messages: Sequence[str | None]) -> str:
    """The message if all ranks that acted have the same one; otherwise each message with its ranks."""
    distinct = {message for acts, message in zip(acted, messages) if acts}
    if len(distinct) == 1:
        return str(distinct.pop())
    errors = sorted({message for message in messages if message})
    ranks = {error: [str(rank) for rank, message in enumerate(messages) if message == error] for error in errors}
    return "; ".join(f"rank {', '.join(ranks[error])}: {error}" for error in errors)


def _first_difference(one: str, other: str) -> tuple[str, str]:
    for left, right in itertools.zip_longest(one.splitlines(), other.splitlines(), fillvalue="nothing"):
        if left != right:
            return left, right
    return one, other


def choose_device(wanted: str, local_rank: int) -> mx.Context:
    """The device of this rank: for ``gpu`` and ``auto`` the GPU of the local rank; ``auto`` falls back to the CPU.

    Raises:
        RequestError: a GPU is requested, but there is none, or MXNet has no code for it.
    """
    visible = mx.context.num_gpus() if wanted != "cpu" else 0
    if wanted == "gpu" and visible == 0:
        raise RequestError(
            "run.device is gpu, but MXNet finds no GPU: install it with launch/gpu/install.sh, or use --run.device cpu"
        )
    if visible == 0:
        return mx.cpu()
    index = local_rank % visible
    refusal = gpus.refusal(index)
    if refusal is None:
        return mx.gpu(index)
    if wanted == "gpu":
        raise RequestError(f"run.device is gpu, but {refusal}")
    logger.warning("run.device auto uses the CPU: %s", refusal)
    return mx.cpu()


def choose_precision(wanted: Precision, device: mx.Context, world: World, cpuinfo: Path = Path("/proc/cpuinfo")) -> Precision:
    """The type of ``train.precision``: ``auto`` is bfloat16 if all ranks compute on CPUs with AVX512_BF16, else float32.

    Every rank must call this.
    """
    if wanted != "auto":
        return wanted
    suits = device.device_type == "cpu" and has_instructions("avx512_bf16", cpuinfo)
    chosen: Precision = "bfloat16" if all(world.gather(suits)) else "float32"
    logger.info("train.precision auto: %s", chosen)
    return chosen


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that affect results."""
    import horovod

    return {"python": sys.version.split()[0], "mxnet": mx.__version__, "horovod": horovod.__version__, "numpy": np.__version__}
