"""Reduction of the gradients over all ranks, overlapping the backward pass."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence

import mxnet as mx
from mxnet import gluon

from vggdist.collectives.world import Collectives, World
from vggdist.config.schema import TrainConfig
from vggdist.models.dense import FactoredDense
from vggdist.training.factors import Factors
from vggdist.training.gradient_exchange import (
    CORE_FLOPS,
    GPU_FLOPS,
    Weight,
    allgather_bytes,
    allreduce_bytes,
    bucket_cap,
    buckets,
    bytes_per_number,
    factored,
    link_bandwidth,
)


class Reduction:
    """Sums gradients and flags over the ranks, and averages batch normalisation's running statistics.

    Each bucket of gradients is one operation of MXNet's engine, which starts when the backward pass has computed the last of
    them. Horovod reduces its arrays in a fixed order and never together with another bucket's, so sums of three and more
    ranks repeat bit for bit. Flags and statistics are reduced with the last bucket, so that all ranks have the same network
    at each step boundary. Some fully connected layers send factors instead of gradients; these come first, since the backward
    pass computes them first.

    Attributes:
        offsets: for the graph; see :class:`~vggdist.training.factors.Factors`.
    """

    def __init__(
        self,
        world: World,
        train: TrainConfig,
        layers: Sequence[FactoredDense],
        trained: Mapping[str, gluon.Parameter],
        statistics: Sequence[mx.nd.NDArray],
        batch_size: int,
    ) -> None:
        """Prepare what is the same in all steps; every rank must call this.

        Args:
            layers: the fully connected ones.
            trained: parameters by name, in the order of the network; those of layers that send factors get no gradients.
            statistics: running statistics of batch normalisation.
            batch_size: samples of each rank.
        """
        self._world: Collectives = world
        self._statistics, self._compressed = statistics, train.compression == "fp16"
        hosts = world.hosts()
        weights = [Weight(layer.weight.name, *layer.weight.shape) for layer in layers]
        on_gpu = layers[0].weight.list_ctx()[0].device_type == "gpu"
        flops = GPU_FLOPS if on_gpu else CORE_FLOPS * int(os.environ.get("OMP_NUM_THREADS", 1))
        chosen = factored(weights, train, world.size, batch_size, link_bandwidth(train, hosts, on_gpu), flops)
        self._factored = world.gather(chosen)[0]  # the ranks may have different numbers of threads
        factored_layers = [layer for layer in layers if layer.weight.name in self._factored]
        self._factors = Factors(world, factored_layers, batch_size, train.accumulation, self._compressed)
        self.offsets = self._factors.offsets
        self._summed = {name: parameter for name, parameter in trained.items() if name not in self._factors.gradients}
        width = bytes_per_number(train)
        sizes = {name: width * parameter.data().size for name, parameter in self._summed.items()}
        self._buckets = buckets(sizes, bucket_cap(train, hosts > 1, on_gpu))
        compressed = self._summed if self._compressed else {}
        # Allocated once, since allocating takes longer than the copy; in the order of the backward pass.
        self._halves = {name: compressed[name].data().astype("float16") for name in reversed(list(compressed))}
        self._share = mx.nd.full((1,), 1 / world.size, ctx=layers[0].weight.list_ctx()[0])

    @property
    def overlaps(self) -> bool:
        """Whether some gradients are sent while others are still being computed."""
        return self._world.size > 1 and (len(self._buckets) > 1 or bool(self._factored))

    def __str__(self) -> str:
        """What the last bits of the sums depend on, as text; it is compared between runs."""
        if self._world.size == 1 and not self._factored:
            return "nothing"
        names = [name.removeprefix("vgg_").removesuffix("_weight") for name in self._factored]
        factors = f", factors of {', '.join(names)}" if names else ""
        return f"gradients in {len(self._buckets)} bucket(s){factors}"

    @property
    def sent_bytes(self) -> float:
        """Bytes that this rank sends in a step."""
        ranks, width = self._world.size, 2 if self._compressed else 4
        numbers = sum(parameter.data().size for parameter in self._summed.values())
        exact = 4 * sum(statistic.size for statistic in self._statistics)
        return allreduce_bytes(width * numbers + exact, ranks) + allgather_bytes(self._factors.row_bytes, ranks)

    def with_collectives(self, collectives: Collectives) -> Reduction:
        """The same reduction with other collectives, for measurements."""
        other = copy.copy(self)
        other._world, other._factors = collectives, self._factors.with_collectives(collectives)
        return other

    def store_factors(self, inputs: Sequence[mx.nd.NDArray]) -> None:
        """Copy the factors after each backward pass; ``inputs`` of the layers that send factors."""
        self._factors.store(inputs)

    def __call__(self, flags: mx.nd.NDArray) -> dict[str, mx.nd.NDArray]:
        """Enqueue the whole exchange, without a wait.

        Args:
            flags: small array that is summed over the ranks in place.

        Returns:
            The sum over the ranks of each trained parameter's gradient, by name.
        """
        gradients = {name: parameter.grad() for name, parameter in self._summed.items()}
        self._factors.gather()
        if self._world.size > 1:
            self._sum(gradients, [flags, *self._statistics])
        self._factors.multiply()
        return gradients | self._factors.gradients

    def clear(self) -> None:
        """Set the gradients that an accumulated batch adds up to zero."""
        for parameter in self._summed.values():
            parameter.zero_grad()

    def _sum(self, gradients: Mapping[str, mx.nd.NDArray], exact: list[mx.nd.NDArray]) -> None:
        """Sum each bucket as one group, in place; ``exact`` are summed with the last, and are never compressed."""
        for name, half in self._halves.items():
            gradients[name].copyto(half)
        sent = self._halves or gradients
        for number, names in enumerate(self._buckets):
            last = number == len(self._buckets) - 1
            self._world.reduce([*(sent[name] for name in names), *(exact if last else [])], f"gradients.{number}")
        for statistic in self._statistics:  # an operation without work space, see Factors
            mx.nd.broadcast_mul(statistic, self._share, out=statistic)
        for name, half in self._halves.items():
            half.copyto(gradients[name])
