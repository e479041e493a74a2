"""From the gradients of each rank to their sums over all ranks, beside the rest of the backward pass."""

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
    GIGABIT,
    GPU_FLOPS,
    Weight,
    allgather_bytes,
    allreduce_bytes,
    bucket_cap,
    buckets,
    bytes_per_number,
    factored,
)


class Reduction:
    """Sums gradients and flags over the ranks, and averages batch normalisation's running statistics.

    Each bucket of gradients is one operation of MXNet's engine, which starts when the backward pass has made the last of them.
    Horovod reduces its arrays in a fixed order and never together with another bucket's, so sums of three and more ranks
    repeat bit for bit. Ballot and statistics travel with the last bucket, so that all ranks hold the same network at each step
    boundary. Some fully connected layers send factors in place of gradients; these go first, for they are there first.

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
        """Settle what stays the same from step to step; every rank must call this.

        Args:
            layers: the fully connected ones.
            trained: parameters by name, in the order of the network. Those of layers that send factors lose their gradients.
            statistics: of batch normalisation.
            batch_size: samples of each rank.
        """
        self._world: Collectives = world
        self._statistics, self._compressed = statistics, train.compression == "fp16"
        hosts = world.hosts()
        weights = [Weight(layer.weight.name, *layer.weight.shape) for layer in layers]
        bandwidth = train.network_bandwidth * GIGABIT
        on_gpu = layers[0].weight.list_ctx()[0].device_type == "gpu"
        flops = GPU_FLOPS if on_gpu else CORE_FLOPS * int(os.environ.get("OMP_NUM_THREADS", 1))
        chosen = factored(weights, train, world.size, hosts, batch_size, bandwidth, flops)
        self._factored = world.gather(chosen)[0]  # the ranks may have different numbers of threads
        giving = [layer for layer in layers if layer.weight.name in self._factored]
        self._factors = Factors(world, giving, batch_size, train.accumulation, self._compressed)
        self.offsets = self._factors.offsets
        self._summed = {name: parameter for name, parameter in trained.items() if name not in self._factors.gradients}
        width = bytes_per_number(train)
        sizes = {name: width * parameter.data().size for name, parameter in self._summed.items()}
        self._buckets = buckets(sizes, bucket_cap(train, hosts > 1, on_gpu))
        compressed = self._summed if self._compressed else {}
        # Made once, for new memory takes longer than the copy; in the order of the backward pass.
        self._small = {name: compressed[name].data().astype("float16") for name in reversed(list(compressed))}
        self._share = mx.nd.full((1,), 1 / world.size, ctx=layers[0].weight.list_ctx()[0])

    @property
    def overlaps(self) -> bool:
        """Whether some gradients travel while others are still being made."""
        return self._world.size > 1 and (len(self._buckets) > 1 or bool(self._factored))

    def __str__(self) -> str:
        """What the last bits of the sums depend on."""
        if self._world.size == 1 and not self._factored:
            return "nothing"
        names = [name.removeprefix("vgg_").removesuffix("_weight") for name in self._factored]
        factors = f", factors of {', '.join(names)}" if names else ""
        return f"gradients in {len(self._buckets)} bucket(s){factors}"

    @property
    def sent_bytes(self) -> float:
        """What this rank sends in a step."""
        ranks, width = self._world.size, 2 if self._compressed else 4
        numbers = sum(parameter.data().size for parameter in self._summed.values())
        exact = 4 * sum(statistic.size for statistic in self._statistics)
        return allreduce_bytes(width * numbers + exact, ranks) + allgather_bytes(self._factors.row_bytes, ranks)

    def through(self, collectives: Collectives) -> Reduction:
        """The same reduction by other collectives, for measurements."""
        other = copy.copy(self)
        other._world, other._factors = collectives, self._factors.through(collectives)
        return other

    def keep(self, inputs: Sequence[mx.nd.NDArray]) -> None:
        """Take in, after each backward pass, what the layers that send factors had for input."""
        self._factors.keep(inputs)

    def __call__(self, flags: mx.nd.NDArray) -> dict[str, mx.nd.NDArray]:
        """Hand everything to Horovod, without a wait.

        Args:
            flags: small array that becomes the sum of the ranks'.

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
        """Empty the gradients that the backward passes of an accumulated batch add up."""
        for parameter in self._summed.values():
            parameter.zero_grad()

    def _sum(self, gradients: Mapping[str, mx.nd.NDArray], exact: list[mx.nd.NDArray]) -> None:
        """Sum each bucket as one group, in place; ``exact`` travel with the last, and are never compressed."""
        for name, small in self._small.items():
            gradients[name].copyto(small)
        sent = self._small or gradients
        for number, names in enumerate(self._buckets):
            last = number == len(self._buckets) - 1
            self._world.reduce([*(sent[name] for name in names), *(exact if last else [])], f"gradients.{number}")
        for statistic in self._statistics:  # by an operation without work space
            mx.nd.broadcast_mul(statistic, self._share, out=statistic)
        for name, small in self._small.items():
            small.copyto(gradients[name])
