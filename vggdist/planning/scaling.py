"""How long a step takes on many ranks, from what it takes on one.

The work of a rank grows with its batch, which stays as it is (weak scaling), so the efficiency on ``n`` ranks is ``T / t``:
``T`` seconds a step on one rank, ``t`` on ``n``, and speed-up ``n T / t``.

Assumptions, after what Horovod does (Sergeev & Del Balso 2018, "Tensor Fusion"):

* A third of ``T`` is the forward pass, two thirds the backward pass: each layer's backward pass is two products of the
  forward pass's size, one for its input's gradient and one for its weights'. A layer takes its share of the FLOPs.
* *With overlap* (buckets, ``train.bucket_cap_mb``), a layer's gradient is ready when the backward pass is through the layer;
  with accumulation, the last backward pass. Reductions run one after the other beside the computation and do not slow it.
  Whenever the links are free, what is ready by then is sent in the order in which it became ready: as many gradients
  together as the fusion buffer holds, a larger one alone.
* *Without*, all gradients are ready at the end of the backward pass; the rest is the same.

``t`` is the later of ``T`` and the end of the last reduction. Most of VGG's gradient is the first fully connected layer's
(fc6: 103 of VGG-16's 138 million parameters), which are ready after 1 % of the backward pass: overlap hides them where
the network carries them within the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vggdist.models.layers import Layer
from vggdist.planning.reduction import Algorithm, Cluster

BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True)
class Gradient:
    """A layer's gradient: when it is ready, in seconds since the step's beginning, and its bytes."""

    ready: float
    num_bytes: float


@dataclass(frozen=True)
class Workload:
    """A step of one rank.

    Attributes:
        seconds: of a step on one rank alone.
        bytes_per_gradient: in which one number travels.
        fusion_threshold: bytes.
        overlap: seconds of backward pass beside which gradients are reduced; 0 where all of them wait for its end.
    """

    layers: Sequence[Layer]
    seconds: float
    bytes_per_gradient: int
    fusion_threshold: float
    overlap: float

    def gradients(self) -> list[Gradient]:
        """Every layer's, in the order of the backward pass."""
        total = sum(layer.flops for layer in self.layers)
        made, done = [], 0
        for layer in reversed(self.layers):
            done += layer.flops
            if layer.trained:
                ready = self.seconds - self.overlap * (1 - done / total)
                made.append(Gradient(ready, layer.trained * self.bytes_per_gradient))
        return made


def reduced_at(gradients: Sequence[Gradient], threshold: float, seconds: Callable[[float], float]) -> float:
    """When the last gradient is reduced, in seconds since the step's beginning.

    Args:
        threshold: bytes that travel together at most; a larger gradient travels alone.
        seconds: of the reduction of so many bytes.
    """
    waiting, now = list(gradients), 0.0
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
    end = reduced_at(
        workload.gradients(),
        workload.fusion_threshold,
        lambda num_bytes: cluster.seconds(algorithm, ranks, num_bytes),
    )
    return max(workload.seconds, end)


def worker_counts(ranks: int) -> list[int]:
    """1, 2, 4 ... and the number of ranks itself."""
    return [*(1 << power for power in range((ranks - 1).bit_length())), ranks]
