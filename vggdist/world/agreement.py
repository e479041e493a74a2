"""What all ranks learn at the same step without a wait of their own: whether to stop, to regroup, or one is in trouble.

A rank cannot stop alone, since the others would wait for it in the next reduction. So each rank's wish travels with the
traffic of every step, and is read when the step after it has been handed to the device: nobody waits for it, and all ranks
read the same sum at the same place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from vggdist.world.process import World


@dataclass(frozen=True)
class Wishes:
    """What the ranks wished when a step was handed over.

    Attributes:
        stop: any wants to stop.
        trouble: any is in trouble.
        regroup: any knows that the hosts of an elastic job have changed.
    """

    stop: bool = False
    trouble: bool = False
    regroup: bool = False


class Agreement:
    """The ranks' wishes, sent with each step and read one step later."""

    def __init__(
        self,
        world: World,
        device: mx.Context,
        stop: Callable[[], bool],
        trouble: Callable[[], bool],
        regroup: Callable[[], bool] = lambda: False,
    ) -> None:
        self._world = world
        self._device = device
        self._stop = stop
        self._trouble = trouble
        self._regroup = regroup
        self._sent: mx.nd.NDArray | None = None
        self._exchanges = 0

    def ballot(self) -> mx.nd.NDArray:
        """This rank's wishes now, ``(3,) float32``, to be summed over the ranks in place."""
        return mx.nd.array([self._stop(), self._trouble(), self._regroup()], ctx=self._device, dtype="float32")

    def read(self, ballot: mx.nd.NDArray) -> Wishes:
        """Take in a ballot that is on its way, and tell what the one before it said.

        This is the only wait between two reports: for the step before the one that the device has at hand. So the host is
        never more than one step ahead.

        Args:
            ballot: as :meth:`ballot` made it, handed to the reduction.
        """
        before, self._sent = self._sent, ballot
        return _count(before) if before is not None else Wishes()

    def exchange(self) -> Wishes:
        """Send a ballot outside a step and tell what the one before it said; every rank must call this equally often."""
        ballot = self.ballot()
        self._exchanges += 1
        self._world.reduce([ballot], f"exchange.{self._exchanges % 2}")  # the former one may still be on its way
        return self.read(ballot)


def _count(ballot: mx.nd.NDArray) -> Wishes:
    # Not "> 0": a reduction that failed can leave nan, which is no wish; its error is raised where the step is read.
    return Wishes(*(ballot.asnumpy() >= np.float32(0.5)).tolist())
