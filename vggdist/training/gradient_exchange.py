"""What the ranks send each other in a step, by arithmetic only: for training, ``plan`` and ``summary``.

``P`` ranks form a ring. To sum ``S`` bytes over the ranks each sends ``2 (P - 1) / P S``, to gather ``S`` bytes of each rank
``(P - 1) S`` (Patarasuk & Yuan 2009, section 3). A fully connected layer from ``I`` to ``O`` units, with ``B`` samples on
each rank, is sent either as gradient, ``S = 4 O I``, or as factors (:mod:`vggdist.training.factors`), ``S = 4 B (O + I)``;
with factors each rank computes the product over all ``P B`` samples instead of its own ``B``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from vggdist.config.schema import TrainConfig
from vggdist.models.layers import Layer

_GATHER_S = 2e-3
"""Seconds by which factors must be faster: the time of a layer's two gathers, however little they send (2.2 ms for two ranks
of one host, on Gloo and on MPI, n = 200)."""
# Small, since nothing overlaps the last bucket.
_CAP_BETWEEN_HOSTS_MIB = 1.0
_GPU_CAP_MIB = 25.0  # PyTorch's; not measured here
GIGABIT = 1e9 / 8
"""Bytes."""
HOST_BANDWIDTH = 3e9
"""Bytes per second at which a rank sends gradients to another one of its host: 512 MiB over Gloo in 0.18 s, two ranks."""
CORE_FLOPS, GPU_FLOPS = 60e9, 10e12
"""Operations per second of one core with AVX-512 and of a GPU, in float32; the magnitude is enough to choose."""


def bytes_per_number(train: TrainConfig) -> int:
    """Bytes of a number of a gradient or factor as it is sent."""
    return 2 if train.compression == "fp16" else 4


def bucket_cap(train: TrainConfig, several_hosts: bool, on_gpu: bool) -> float:
    """Bytes from which a bucket of gradients is full; infinite for a single bucket.

    On a single host overlapping the reduction with the backward pass gains nothing: it uses the cores that compute.
    """
    if train.bucket_cap_mb is not None:
        return train.bucket_cap_mb * 2**20
    return (_GPU_CAP_MIB if on_gpu else _CAP_BETWEEN_HOSTS_MIB if several_hosts else inf) * 2**20


def buckets(sizes: Mapping[str, int], cap: float) -> list[list[str]]:
    """The buckets of gradients that are reduced together, in the order of the backward pass.

    Args:
        sizes: bytes of each gradient by its parameter's name, in the order of the layers.
        cap: bytes from which a bucket is full; the last one may have less.
    """
    result: list[list[str]] = [[]]
    filled = 0
    for name in reversed(list(sizes)):
        if filled and filled >= cap:
            result.append([])
            filled = 0
        result[-1].append(name)
        filled += sizes[name]
    return result


def allreduce_bytes(num_bytes: float, ranks: int) -> float:
    """Bytes that each rank sends to sum ``num_bytes`` over the ranks."""
    return 2 * (ranks - 1) / ranks * num_bytes


def allgather_bytes(num_bytes: float, ranks: int) -> float:
    """Bytes that each rank sends to gather ``num_bytes`` of each rank."""
    return (ranks - 1) * num_bytes


@dataclass(frozen=True)
class Weight:
    """The weight ``(outputs, inputs)`` of a fully connected layer that has a bias."""

    name: str
    outputs: int
    inputs: int

    def gradient_bytes(self, ranks: int, width: int) -> float:
        """Bytes that each rank sends if the gradients are summed; ``width`` bytes a number."""
        return allreduce_bytes(width * self.outputs * (self.inputs + 1), ranks)

    def factor_bytes(self, ranks: int, batch_size: int, width: int) -> float:
        """Bytes that each rank sends if the factors are gathered; ``batch_size`` samples on each."""
        return allgather_bytes(width * batch_size * (self.outputs + self.inputs), ranks)


def weights_of(layers: Iterable[Layer]) -> list[Weight]:
    """The weights of the fully connected layers, by the layers' names."""
    dense = [layer for layer in layers if layer.kind == "dense"]
    return [Weight(layer.name, layer.output_shape[0], layer.flops // (2 * layer.output_shape[0])) for layer in dense]


def factored(
    weights: Iterable[Weight], train: TrainConfig, ranks: int, batch_size: int, bandwidth: float, flops: float
) -> list[str]:
    """The weights that are sent as factors: with ``auto`` those for which that is faster, the larger product included.

    Args:
        batch_size: samples of each rank.
        bandwidth: bytes per second, see :func:`link_bandwidth`.
        flops: operations per second of a rank.
    """
    width = bytes_per_number(train)

    def gains(weight: Weight) -> bool:
        saved = weight.gradient_bytes(ranks, width) - weight.factor_bytes(ranks, batch_size, width)
        product = 2 * weight.outputs * weight.inputs * (ranks - 1) * batch_size
        return saved / bandwidth > product / flops + _GATHER_S

    if train.factors == "auto":
        return [weight.name for weight in weights if gains(weight)]
    return [weight.name for weight in weights if train.factors == "always"]


def link_bandwidth(train: TrainConfig, hosts: int, on_gpu: bool) -> float:
    """Bytes per second at which a rank sends gradients; infinite between the GPUs of a host, where that is not measured."""
    if hosts > 1:
        return train.network_bandwidth * GIGABIT
    return inf if on_gpu else HOST_BANDWIDTH


def sent_by_layer(train: TrainConfig, ranks: int, batch_size: int) -> dict[str, Callable[[Layer], float]]:
    """Bytes that each rank sends in a step for a layer: as gradient, and as factors."""
    width = bytes_per_number(train)

    def gradient(layer: Layer) -> float:
        return allreduce_bytes(width * layer.trained, ranks)

    def factors(layer: Layer) -> float:
        weights = weights_of([layer])
        return weights[0].factor_bytes(ranks, batch_size, width) if weights else gradient(layer)

    return {"sent as gradient": gradient, "or as factors": factors}
