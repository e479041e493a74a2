"""Duration of an allreduce and an allgather in the latency-bandwidth model.

A message of ``s`` bytes over a link takes ``a + s / B`` (latency ``a``, bandwidth ``B``; Hockney 1994). With ``n`` ranks
on ``h`` hosts, ``l = n / h`` on each, ``S`` bytes to reduce, and links ``a_l, B_l`` within and ``a_n, B_n`` between hosts:

* **ring** (Patarasuk & Yuan 2009, section 3; Horovod's default, with NCCL, MPI or Gloo beneath): a reduce-scatter and an
  allgather of ``n - 1`` steps each, in each of which each rank sends ``S / n`` bytes. A step ends with its slowest link:
  ``2 (n - 1) max(a_l + S / (n B_l), a_n + S / (n B_n))``, without the second term on one host.
* **hierarchical** (Horovod's ``HOROVOD_HIERARCHICAL_ALLREDUCE``, ``NCCLHierarchicalAllreduce``): reduce-scatter within the
  hosts, ``l`` rings of ``S / l`` bytes side by side between them, which share the host's link, and allgather within:
  ``2 (l - 1) (a_l + S / (l B_l)) + 2 (h - 1) (a_n + S / (h B_n))``.

To **gather** ``S`` bytes of each rank, a ring takes ``n - 1`` steps, in each of which each rank sends ``S`` bytes.

The additions are not counted: they are faster than the links.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Algorithm = Literal["ring", "hierarchical"]


@dataclass(frozen=True)
class Link:
    """A connection of two ranks: latency in seconds, bandwidth in bytes per second in each direction."""

    latency: float
    bandwidth: float

    def seconds(self, num_bytes: float) -> float:
        """Time of one message."""
        return self.latency + num_bytes / self.bandwidth


@dataclass(frozen=True)
class Cluster:
    """Hosts, filled with ranks one after the other."""

    ranks_per_host: int
    within: Link
    between: Link
    """Between hosts; the ranks of a host share it."""

    def hosts(self, ranks: int) -> int:
        """Number of hosts for a number of ranks."""
        return -(-ranks // self.ranks_per_host)

    def supports(self, algorithm: Algorithm, ranks: int) -> bool:
        """Whether Horovod would use the algorithm: hierarchical needs several hosts with the same number of ranks."""
        return algorithm == "ring" or (self.hosts(ranks) > 1 and ranks % self.ranks_per_host == 0)

    def seconds(self, algorithm: Algorithm, ranks: int, num_bytes: float) -> float:
        """Time of one allreduce; 0 for one rank."""
        if algorithm == "hierarchical":
            return self._hierarchical(ranks, num_bytes)
        return 2 * (ranks - 1) * self._ring_step(ranks, num_bytes / ranks)

    def gather_seconds(self, ranks: int, num_bytes: float) -> float:
        """Time of one allgather of ``num_bytes`` of each rank."""
        return (ranks - 1) * self._ring_step(ranks, num_bytes)

    def _ring_step(self, ranks: int, num_bytes: float) -> float:
        """Time in which every rank sends ``num_bytes`` to the next, given by the slowest link."""
        links = [self.within] if self.hosts(ranks) == 1 else [self.within, self.between]
        return max(link.seconds(num_bytes) for link in links)

    def _hierarchical(self, ranks: int, num_bytes: float) -> float:
        local, hosts = self.ranks_per_host, self.hosts(ranks)
        within = 2 * (local - 1) * self.within.seconds(num_bytes / local)
        return within + 2 * (hosts - 1) * self.between.seconds(num_bytes / hosts)
