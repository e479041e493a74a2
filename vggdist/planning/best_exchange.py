"""The predicted fastest way to exchange gradients, for a number of ranks and a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from vggdist.planning.job import Job
from vggdist.planning.scaling import step_seconds
from vggdist.training.gradient_exchange import GIGABIT

CAPS_MIB = (inf, 25.0, 4.0, 1.0)


@dataclass(frozen=True)
class Best:
    """A way to exchange gradients, and its predicted step time.

    Attributes:
        cap: MiB, ``train.bucket_cap_mb``.
        factored: layers that send factors.
        seconds: of a step, with a ring.
    """

    cap: float
    factored: tuple[str, ...]
    seconds: float

    def flags(self, gigabits: float) -> str:
        """The flags that select it; with ``auto`` the training chooses the layers by the network's bandwidth."""
        factors = f"auto --train.network_bandwidth {gigabits:g}" if self.factored else "never"
        return f"--train.bucket_cap_mb {'.inf' if self.cap == inf else f'{self.cap:g}'} --train.factors {factors}"


def best(job: Job, ranks: int, gigabits: float) -> Best:
    """The fastest way; among equals the one with the fewest buckets, without factors.

    Args:
        gigabits: per second, the bandwidth of a host's network for reductions.
    """
    assert job.workload is not None
    bandwidth = gigabits * GIGABIT
    cluster = replace(job.cluster, between=replace(job.cluster.between, bandwidth=bandwidth))
    choices = []
    for factors in ("never", "auto"):
        for cap in CAPS_MIB:
            train = replace(job.request.train, factors=factors, bucket_cap_mb=cap)
            exchange = job.exchange(train, ranks, bandwidth)
            seconds = step_seconds(replace(job.workload, exchange=exchange), cluster, "ring", ranks)
            choices.append(Best(cap, tuple(exchange.factored), seconds))
    return min(choices, key=lambda choice: round(choice.seconds / job.workload.seconds, 3))  # type: ignore[union-attr]
