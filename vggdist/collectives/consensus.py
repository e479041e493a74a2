"""Flags that any rank can raise, reduced over all ranks with each step: stop, a failed rank, changed hosts, a late checkpoint.

A rank cannot stop alone, because the others would wait for it in the next reduction. So the flags are summed together with
the gradients of every step, and read after the next step has been enqueued on the device: no step waits for them, and all
ranks read the same sum at the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from vggdist.collectives.world import World


@dataclass(frozen=True)
class Flags:
    """Whether any rank had raised a flag when a step was enqueued.

    Attributes:
        stop: a rank has a stop request.
        failed: a rank has an error that ends the run.
        hosts_changed: the hosts of an elastic job have changed.
        checkpoint: the newest checkpoint is too old.
    """

    stop: bool = False
    failed: bool = False
    hosts_changed: bool = False
    checkpoint: bool = False


class Consensus:
    """Sums the ranks' flags with each step and reads them one step later."""

    def __init__(
        self,
        world: World,
        device: mx.Context,
        stop: Callable[[], bool],
        failed: Callable[[], bool],
        hosts_changed: Callable[[], bool] = lambda: False,
        checkpoint: Callable[[], bool] = lambda: False,
    ) -> None:
        self._world = world
        self._device = device
        self._raised = (stop, failed, hosts_changed, checkpoint)  # in the order of Flags
        self._in_flight: mx.nd.NDArray | None = None
        self._exchanges = 0

    def local_flags(self) -> mx.nd.NDArray:
        """This rank's current flags, ``(4,) float32``, to be summed over the ranks in place."""
        return mx.nd.array([raised() for raised in self._raised], ctx=self._device, dtype="float32")

    def read(self, flags: mx.nd.NDArray) -> Flags:
        """Store the flags that are in flight, and return those of the previous step.

        This is the only wait between two reports: for the step before the one that the device computes. So the host is at
        most one step ahead.

        Args:
            flags: of :meth:`local_flags`, enqueued for the reduction.
        """
        previous, self._in_flight = self._in_flight, flags
        return _to_flags(previous) if previous is not None else Flags()

    def exchange(self) -> Flags:
        """Sum the flags outside a step, and return the previous ones; all ranks must call this equally often."""
        flags = self.local_flags()
        self._exchanges += 1
        self._world.reduce([flags], f"exchange.{self._exchanges % 2}")  # the previous one may still be in flight
        return self.read(flags)


def _to_flags(flags: mx.nd.NDArray) -> Flags:
    # A failed reduction can leave nan, which must not count as a flag: its error is raised where the step is read.
    return Flags(*(flags.asnumpy() >= np.float32(0.5)).tolist())
