"""Whether the cores were ours while something was measured."""

from __future__ import annotations

import os
import time

import psutil

from vggdist.collectives.world import World


class OtherLoad:
    """The share of this host's cores that processes other than the ranks used since it was made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._started, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds(world)

    def share(self) -> float:
        """From 0 to 1, of rank 0's host. Every rank must call this."""
        own, busy = _own_seconds(self._world) - self._own, _busy_seconds() - self._busy
        return max(busy - own, 0.0) / ((time.perf_counter() - self._started) * (os.cpu_count() or 1))


def _busy_seconds() -> float:
    """Core seconds in which this host's cores did anything since it started; what a hypervisor took counts."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _own_seconds(world: World) -> float:
    """Core seconds of the ranks on rank 0's host."""
    mine = [os.uname().nodename, time.process_time()]
    host = world.gather(mine)
    return sum(seconds for name, seconds in host if name == host[0][0])
