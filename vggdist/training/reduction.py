"""The sum of a step's gradients over the ranks, in buckets that travel while the backward pass goes on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import mxnet as mx

from vggdist.config.schema import TrainConfig
from vggdist.training.exchange import bucket_cap, buckets
from vggdist.world.process import World

# What arrives at the compression is a share of a mean: small, never near float16's largest 65,504, but often below its
# smallest 6e-8. A power of two moves it into range without rounding; 64 and more then overflow, and are found as not finite.
FP16_SCALE = 1024.0


class Reduction:
    """Sums gradients and ballot over the ranks, and averages batch normalisation's running statistics, in place.

    Each bucket is one operation of MXNet's engine, which starts when the backward pass has made the last of its gradients.
    Horovod reduces a bucket's arrays in a fixed order and never together with another bucket's, so sums of three and more
    ranks repeat bit for bit. Ballot and statistics travel with the last bucket, so that all ranks hold the same network at
    each step boundary.
    """

    def __init__(
        self, world: World, train: TrainConfig, sizes: Mapping[str, int], statistics: Sequence[mx.nd.NDArray]
    ) -> None:
        """Settle what stays the same from step to step; every rank must call this.

        Args:
            sizes: of each trained parameter by name, in the order of the layers.
            statistics: of batch normalisation.
        """
        self._world = world
        self._compressed = train.compression == "fp16"
        width = 2 if self._compressed else 4
        cap = bucket_cap(train, world.hosts() > 1)
        self._buckets = buckets({name: width * size for name, size in sizes.items()}, cap)
        self._statistics = statistics

    @property
    def overlaps(self) -> bool:
        """Whether some gradients travel while others are still being made."""
        return self._world.size > 1 and len(self._buckets) > 1

    def __str__(self) -> str:
        """What the last bits of a sum over three or more ranks depend on."""
        return f"gradients in {len(self._buckets)} bucket(s)" if self._world.size > 1 else "nothing"

    def through(self, world: World) -> Reduction:
        """The same with another view of the ranks, for measuring."""
        other = copy.copy(self)
        other._world = world
        return other

    def __call__(self, gradients: Mapping[str, mx.nd.NDArray], ballot: mx.nd.NDArray) -> None:
        """Hand everything to Horovod, without a wait.

        Args:
            gradients: of this rank, by parameter name; become the sums.
            ballot: small array that becomes the sum of the ranks'.
        """
        if self._world.size == 1:
            return
        last = len(self._buckets) - 1
        for number, names in enumerate(self._buckets):
            arrays = [gradients[name] for name in names]
            self._sum(arrays, [ballot, *self._statistics] if number == last else [], f"gradients.{number}")
        for statistic in self._statistics:
            statistic *= 1 / self._world.size

    def _sum(self, gradients: list[mx.nd.NDArray], exact: list[mx.nd.NDArray], name: str) -> None:
        """Sum arrays as one group; ``exact`` are never compressed."""
        if not self._compressed:
            self._world.reduce([*gradients, *exact], name)
            return
        small = [(gradient * FP16_SCALE).astype("float16") for gradient in gradients]
        self._world.reduce([*small, *exact], name)
        for gradient, reduced in zip(gradients, small):
            gradient[:] = reduced.astype("float32") / FP16_SCALE
