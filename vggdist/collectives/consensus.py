"""Flags that any rank can raise, combined over all ranks with each step: stop, regroup, a rank has failed.

A rank cannot stop alone, since the others would wait for it in the next reduction. So each rank's flags travel with the
reduction of every step and are read after the next step has been handed to the device: nothing waits for them, and all ranks
read the same sum at the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from vggdist.collectives.world import World


@dataclass(frozen=True)
class Flags:
    """Whether any rank had raised a flag when a step was handed over.

    Attributes:
        stop: a rank wants to stop.
        trouble: a rank has met an error that ends the run.
        regroup: the hosts of an elastic job have changed.
    """

    stop: bool = False
    trouble: bool = False
    regroup: bool = False


class Consensus:
    """The ranks' flags, summed with each step and read one step later."""

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
        self._in_flight: mx.nd.NDArray | None = None
        self._exchanges = 0

    def local_flags(self) -> mx.nd.NDArray:
        """This rank's flags now, ``(3,) float32``, to be summed over the ranks in place."""
        return mx.nd.array([self._stop(), self._trouble(), self._regroup()], ctx=self._device, dtype="float32")

    def read(self, flags: mx.nd.NDArray) -> Flags:
        """Store the flags that are in flight, and return the ones of the step before.

        This is the only wait between two reports: for the step before the one that the device computes. So the host is never
        more than one step ahead.

        Args:
            flags: as :meth:`local_flags` returned them, handed to the reduction.
        """
        before, self._in_flight = self._in_flight, flags
        return _raised(before) if before is not None else Flags()

    def exchange(self) -> Flags:
        """Sum flags outside a step, and return the ones before; every rank must call this equally often."""
        flags = self.local_flags()
        self._exchanges += 1
        self._world.reduce([flags], f"exchange.{self._exchanges % 2}")  # the one before may still be in flight
        return self.read(flags)


def _raised(flags: mx.nd.NDArray) -> Flags:
    # Not "> 0": a reduction that failed can leave nan, which raises no flag; its error is raised where the step is read.
    return Flags(*(flags.asnumpy() >= np.float32(0.5)).tolist())
