"""Load of other processes on the cores during a measurement."""

from __future__ import annotations

import os
import time

import psutil

from vggdist.collectives.world import World


class OtherLoad:
    """Measures the share of this host's cores that processes other than the ranks use from now on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._started, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds(world)

    def share(self) -> float:
        """Share from 0 to 1, on rank 0's host. Every rank must call this."""
        own, busy = _own_seconds(self._world) - self._own, _busy_seconds() - self._busy
        return max(busy - own, 0.0) / ((time.perf_counter() - self._started) * (os.cpu_count() or 1))


def _busy_seconds() -> float:
    """Busy core seconds of this host since its start, including those that a hypervisor took."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _own_seconds(world: World) -> float:
    """Core seconds of the ranks on rank 0's host."""
    mine = [os.uname().nodename, time.process_time()]
    host = world.gather(mine)
    return sum(seconds for name, seconds in host if name == host[0][0])
