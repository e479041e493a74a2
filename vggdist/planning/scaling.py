"""How long a step takes on many ranks, from what it takes on one.

The work of a rank grows with its batch, which stays as it is (weak scaling), so the efficiency on ``n`` ranks is ``T / t``:
``T`` seconds a step on one rank, ``t`` on ``n``, and speed-up ``n T / t``.

Assumptions, after what Horovod does (Sergeev & Del Balso 2018, "Tensor Fusion") and what our step does
(:mod:`vggdist.training.gradient_reduction`):

* A third of ``T`` is the forward pass, two thirds the backward pass: each layer's backward pass is two products of the
  forward pass's size, one for its input's gradient and one for its weights'. A layer takes its share of the FLOPs.
* A layer's gradient is ready when the backward pass is through the layer; with accumulation, the last backward pass. Where
  MXNet makes one operation of several nodes of the backward pass (a *bulk segment*), it is ready when that is over.
* Gradients travel in buckets, each when the last of its gradients is ready, or all of them after the backward pass. Reductions
  run one after the other beside the computation. They slow it by ``byte_cost`` seconds for each byte that a rank sends:
  without a core of its own, the network's thread copies and adds on the cores that compute.
* Layers that send factors gather them as soon as the last one's output gradient is there. Each rank then computes their
  products over the samples of all ranks, which delays what is computed after it.

``t`` is the later of the end of the computation and that of the last reduction. Most of VGG's gradient is the first fully
connected layer's (fc6: 103 of VGG-16's 138 million parameters), which is ready after 1 % of the backward pass: buckets hide it
where the network carries it within the rest of it, factors hardly send it at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf

from vggdist.models.layers import Layer
from vggdist.planning.collective_times import Algorithm, Cluster
from vggdist.training.gradient_exchange import Weight, allgather_bytes, allreduce_bytes, buckets, weights_of

BACKWARD_SHARE = 2 / 3
_FORWARD_AND_BACKWARD = 3  # times a forward pass's operations


@dataclass(frozen=True)
class Gradient:
    """Gradients that travel together: when they are ready, in seconds since the step's beginning, and their bytes."""

    ready: float
    num_bytes: float


@dataclass(frozen=True)
class Exchange:
    """How gradients travel.

    Attributes:
        cap: bytes from which a bucket is full (:func:`~vggdist.training.gradient_exchange.buckets`). None: what is ready when
            the links are free is sent together, as far as ``fusion_threshold`` bytes hold it, as Horovod does by itself.
        factored: names of the layers that send factors.
        segment: nodes of the backward pass in one operation.
    """

    cap: float | None = inf
    fusion_threshold: float = 0.0
    factored: Sequence[str] = ()
    segment: int = 1


@dataclass(frozen=True)
class Workload:
    """A step of one rank.

    Attributes:
        seconds: of a step on one rank alone.
        batch_size: its samples.
        bytes_per_gradient: in which one number travels.
        accumulation: backward passes, of which only the last one can hide what travels.
        byte_cost: seconds of computation that each byte sent costs, where the network has no core of its own.
    """

    layers: Sequence[Layer]
    seconds: float
    batch_size: int
    bytes_per_gradient: int = 4
    accumulation: int = 1
    exchange: Exchange = field(default_factory=Exchange)
    byte_cost: float = 0.0

    @property
    def flops(self) -> float:
        """Operations per second of the rank."""
        return _FORWARD_AND_BACKWARD * self.batch_size * sum(layer.flops for layer in self.layers) / self.seconds

    def ready(self) -> dict[str, float]:
        """When each layer's gradient is there, in the order of the backward pass, in seconds since the step's beginning."""
        total, done, nodes = sum(layer.flops for layer in self.layers), 0, _LOSS_NODES
        backward = self.seconds * BACKWARD_SHARE / self.accumulation
        made: dict[str, float] = {}
        waiting: list[str] = []
        segment = 0
        for layer in reversed(self.layers):
            for part in range(count := _nodes(layer)):
                if nodes // self.exchange.segment > segment:
                    segment = nodes // self.exchange.segment
                    made |= dict.fromkeys(waiting, self.seconds - backward * (1 - done / total))
                    waiting = []
                nodes += 1
                if part == count - 1:  # of a convolution or fully connected layer, after its ReLU's
                    done += layer.flops
                    waiting += [layer.name] if layer.trained else []
        return made | dict.fromkeys(waiting, self.seconds)

    def gradients(self) -> list[Gradient]:
        """What is summed together, in the order in which it is ready."""
        ready, width = self.ready(), self.bytes_per_gradient
        sizes = {
            layer.name: width * layer.trained
            for layer in self.layers
            if layer.trained and layer.name not in self.exchange.factored
        }
        if self.exchange.cap == inf:
            return [Gradient(self.seconds, sum(sizes.values()))]
        each = buckets(sizes, 0 if self.exchange.cap is None else self.exchange.cap)
        return [Gradient(max(ready[name] for name in names), sum(sizes[name] for name in names)) for names in each]

    def factors(self) -> tuple[Gradient, float] | None:
        """What is gathered of this rank, and the operations of the product over one rank's samples; None without factors."""
        weights = [weight for weight in weights_of(self.layers) if weight.name in self.exchange.factored]
        if not weights:
            return None
        ready = self.ready()
        rows = sum(weight.outputs + weight.inputs for weight in weights) * self.batch_size * self.bytes_per_gradient
        return Gradient(max(ready[weight.name] for weight in weights), rows), sum(map(self._product, weights))

    def _product(self, weight: Weight) -> float:
        return 2.0 * weight.outputs * weight.inputs * self.batch_size


# Nodes of the backward pass in MXNet's graph of a step: of the loss and its mean, and of a layer.
_LOSS_NODES = 4


def _nodes(layer: Layer) -> int:
    if layer.kind == "convolution":
        return 2 + layer.normalised + (layer.unpooled is not None)  # normalisation, activation, pooling
    return 3 if layer.kind == "dense" and layer.name != "output" else 1  # dropout, activation


def reduced_at(
    gradients: Sequence[Gradient], threshold: float, seconds: Callable[[float], float], start: float = 0.0
) -> float:
    """When the last gradient is reduced, in seconds since the step's beginning.

    Args:
        threshold: bytes that travel together at most; larger ones travel alone.
        seconds: of the reduction of so many bytes.
        start: from when on the links are free.
    """
    waiting, now = list(gradients), start
    while waiting:
        now = max(now, waiting[0].ready)
        message = waiting.pop(0).num_bytes
        while waiting and waiting[0].ready <= now and message + waiting[0].num_bytes <= threshold:
            message += waiting.pop(0).num_bytes
        now += seconds(message)
    return now


def step_seconds(workload: Workload, cluster: Cluster, algorithm: Algorithm, ranks: int) -> float:
    """Predicted time of a step on so many ranks."""
    if ranks == 1:
        return workload.seconds
    gradients, computed, gathered = workload.gradients(), workload.seconds, 0.0
    sent = allreduce_bytes(sum(one.num_bytes for one in gradients), ranks)
    if (factors := workload.factors()) is not None:
        rows, operations = factors
        sent += allgather_bytes(rows.num_bytes, ranks)
        gathered = rows.ready + cluster.gather_seconds(ranks, rows.num_bytes)
        own = operations / workload.flops  # seconds, which the backward pass has without factors
        computed = max(workload.seconds - own, gathered) + ranks * own
        later = (ranks - 1) * own
        gradients = [Gradient(one.ready + (later if one.ready > gathered else 0), one.num_bytes) for one in gradients]
    threshold = workload.exchange.fusion_threshold if workload.exchange.cap is None else 0
    computed += workload.byte_cost * sent
    return max(computed, reduced_at(gradients, threshold, partial(cluster.seconds, algorithm, ranks), gathered))


def worker_counts(ranks: int) -> list[int]:
    """1, 2, 4 ... and the number of ranks itself."""
    return [*(1 << power for power in range((ranks - 1).bit_length())), ranks]
