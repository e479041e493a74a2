"""Checks that the ranks' GPUs, driver, MXNet and Horovod are compatible, at the start of a run and in the doctor."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggdist.config.errors import RequestError, agreed
from vggdist.diagnosis.findings import Finding
from vggdist.environment import gpus
from vggdist.environment.gpus import Version

if TYPE_CHECKING:
    import mxnet as mx

    from vggdist.collectives.world import World

logger = logging.getLogger(__name__)

# The first CUDA version whose NVRTC supports a compute capability ("NVRTC", CUDA Toolkit Release Notes).
_COMPILES_FROM: dict[Version, Version] = {(8, 6): (11, 1), (8, 7): (11, 4), (8, 9): (11, 8)}


@dataclass(frozen=True)
class Card:
    """The GPU of a rank, and the versions of its software.

    Attributes:
        host: name, for messages.
        machine: id of the machine, the same in all its containers.
        address: on the PCI bus of the machine.
        capability: compute capability.
        driver: the newest CUDA version that the driver supports.
        compiler: the CUDA version of NVRTC, which compiles MXNet's fused operators; None if fusion is disabled.
        horovod_finds_driver: see :func:`~vggdist.environment.gpus.horovod_finds_driver`.
    """

    host: str
    machine: str
    address: str
    capability: Version
    driver: Version
    compiler: Version | None
    horovod_finds_driver: bool

    @classmethod
    def of(cls, values: dict[str, Any]) -> Card:
        """From JSON values, which have lists instead of tuples."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**values)


@dataclass(frozen=True)
class Build:
    """The options with which Horovod was compiled."""

    cuda: bool
    nccl: bool


def examine(device: mx.Context) -> Card | None:
    """This rank's card; None on a CPU, or if the driver does not answer."""
    gpu = gpus.describe(device.device_id) if device.device_type == "gpu" else None
    address = gpus.address(device.device_id) if gpu is not None else None
    driver = gpus.driver_cuda()
    if gpu is None or address is None or driver is None:
        return None
    fuses = os.environ.get("MXNET_USE_FUSION", "1").lower() not in ("0", "false")
    compiler = gpus.compiler_cuda() if fuses else None
    finds_driver = gpus.horovod_finds_driver()
    return Card(socket.gethostname(), _machine(), address, gpu.capability, driver, compiler, finds_driver)


def _machine() -> str:
    """Id of the running kernel: containers of one machine have different host names, but the same kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def findings(world: World, device: mx.Context, elastic: bool) -> list[Finding]:
    """Problems of the ranks' GPUs; empty if there are none. Every rank must call this."""
    import horovod.mxnet as hvd

    card = examine(device)
    cards = [Card.of(one) if one is not None else None for one in world.gather(asdict(card) if card is not None else None)]
    return list(check(cards, Build(bool(hvd.cuda_built()), bool(hvd.nccl_built())), elastic))


def require_compatible(world: World, device: mx.Context, elastic: bool) -> None:
    """Log warnings, and raise an error if the run cannot work. Every rank must call this.

    Raises:
        RequestError: on every rank.
    """
    found = findings(world, device, elastic)
    errors = [f"{one.what}; {one.cure}" for one in found if one.level == "error"]
    if errors:
        raise agreed(RequestError(". ".join(errors)))
    for one in found:
        logger.warning("%s; %s", one.what, one.cure)


def check(cards: Sequence[Card | None], build: Build, elastic: bool) -> Iterator[Finding]:
    """The problems of the cards, one finding for all ranks with the same problem.

    Args:
        cards: of all ranks, in their order.
        elastic: ``run.elastic``.
    """
    used = {rank: card for rank, card in enumerate(cards) if card is not None}
    yield from _compiled_code(used)
    if len(cards) == 1 or not used:
        return
    if not build.cuda:
        what = "Horovod was built without CUDA, and cannot reduce arrays on a GPU"
        yield Finding("error", what, "install with launch/gpu/install.sh (docs/install.md)")
    elif not build.nccl:
        what = "Horovod was built without HOROVOD_GPU_OPERATIONS=NCCL: gradients are copied through the hosts' memory"
        yield Finding("warning", what, "install with launch/gpu/install.sh (docs/install.md)")
    else:
        yield from _nccl(used, elastic)


def _nccl(cards: dict[int, Card], elastic: bool) -> Iterator[Finding]:
    for (_, address), ranks in _grouped(cards, lambda card: (card.machine, card.address)):
        if len(ranks) > 1:
            what = f"ranks {_listed(ranks)} share the GPU {address} of {cards[ranks[0]].host}, which NCCL does not support"
            yield Finding("error", what, "start one rank for each GPU (slots of horovodrun, --ntasks-per-gpu=1 of SLURM)")
    if without_driver := [rank for rank, card in cards.items() if not card.horovod_finds_driver]:
        what = f"rank {_listed(without_driver)}: there is no libcuda.so, the name that Horovod opens, only libcuda.so.1"
        yield Finding("error", what, "make a link libcuda.so to libcuda.so.1 in its folder, or in a folder of LD_LIBRARY_PATH")
    if elastic:
        what = "run.elastic on GPUs: with NCCL the remaining ranks wait for a dead one for ever"
        yield Finding("error", what, "set run.elastic false, and start the job with vggdist supervise --shrink")


def _compiled_code(cards: dict[int, Card]) -> Iterator[Finding]:
    """NVRTC or drivers that are too old to compile or load MXNet's fused operators: a run fails at the first step."""
    for (capability, driver, compiler), ranks in _grouped(cards, lambda card: (card.capability, card.driver, card.compiler)):
        if compiler is None:
            continue
        name, remedy = f"rank {_listed(ranks)}", "set MXNET_USE_FUSION=0"
        needed = _COMPILES_FROM.get(capability, (0, 0))
        if compiler < needed:
            what = f"{name}: NVRTC of CUDA {_dotted(compiler)} does not support compute capability {_dotted(capability)}"
            yield Finding("error", what, f"install that of CUDA {_dotted(needed)} (launch/gpu/requirements.txt), or {remedy}")
        elif driver < compiler:
            what = f"{name}: the driver is for CUDA {_dotted(driver)}, and cannot load code of NVRTC {_dotted(compiler)}"
            yield Finding("error", what, f"install a newer driver (CUDA 11.8: 520), or {remedy}")


def _grouped(cards: dict[int, Card], key: Callable[[Card], Any]) -> list[tuple[Any, list[int]]]:
    """The distinct values of a key, each with its ranks."""
    values = dict.fromkeys(key(card) for card in cards.values())
    return [(value, [rank for rank, card in cards.items() if key(card) == value]) for value in values]


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def _dotted(version: Version) -> str:
    return "{}.{}".format(*version)
