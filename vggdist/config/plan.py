"""What a plan can be asked for beside everything that a run can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from vggdist.config.errors import require
from vggdist.config.schema import Config


@dataclass(frozen=True)
class PlanConfig:
    """The job that is planned, and the machines that it would run on."""

    ranks: int = 2
    """Ranks of the job; predicted scaling is told for 1, 2, 4 ... up to this number."""
    ranks_per_host: int = 4
    """Ranks on one host."""
    images_per_s: float | None = None
    """Images per second that one rank alone trains on its batch, measured on the machine that is meant. null: scaling is
    not predicted."""
    samples: int | None = None
    """Training samples, where the data are not at hand. null: as the data set has them."""
    memory: float | None = None
    """Memory of one rank in GiB; a plan that needs more is refused. null: it is estimated, and not judged."""
    cores: int | None = None
    """Cores of one host; a plan whose ranks would wait for images is warned of. null: they are not judged."""
    short_side: int | None = None
    """Short side of the stored pictures in pixels (vggdist prepare --short-side). null: as ImageNet has them."""
    network_bandwidth: float = 25.0
    """Line rate of the network of one host, Gbit/s."""
    network_share: float = 0.81
    """Share of the line rate that a reduction gets; calibrated on published runs: 0.81 with RDMA, 0.54 with TCP."""
    network_latency: float = 9.6
    """Latency of one message between hosts, microseconds (NCCL's own figure for its ring)."""
    byte_cost: float = 0.0
    """Nanoseconds of computation that each byte sent costs a rank. 0: the network has cores of its own. With Gloo on the only
    core of a rank 1.7 were measured, with compressed gradients 7 (docs/plan.md)."""
    host_bandwidth: float = 96.0
    """Bandwidth between two ranks of one host, Gbit/s (NCCL's own figure for PCIe 3.0 x16)."""
    host_latency: float = 5.7
    """Latency of one message within a host, microseconds (NCCL's own figure for its ring over PCIe)."""
    fusion_threshold: float = 128.0
    """Horovod's fusion buffer in MiB (HOROVOD_FUSION_THRESHOLD)."""
    published: bool = False
    """Instead of a plan, print what the model predicts for published measurements, beside what was measured."""

    def __post_init__(self) -> None:
        for key, unit in (
            ("ranks", "rank"),
            ("ranks_per_host", "rank"),
            ("samples", "sample"),
            ("cores", "core"),
            ("short_side", "pixel"),
        ):
            value = getattr(self, key)
            require(value is None or value >= 1, f"plan.{key}", value, f"at least 1 {unit}")
        for key in ("images_per_s", "memory", "network_bandwidth", "host_bandwidth"):
            value = getattr(self, key)
            require(value is None or 0 < value < inf, f"plan.{key}", value, "a positive number")
        for key in ("network_latency", "host_latency", "fusion_threshold", "byte_cost"):
            require(0 <= getattr(self, key) < inf, f"plan.{key}", getattr(self, key), "0 or more")
        require(0 < self.network_share <= 1, "plan.network_share", self.network_share, "a share above 0 and at most 1")


@dataclass(frozen=True)
class PlanRequest(Config):
    """A whole run, and the job that it is planned as."""

    plan: PlanConfig = field(default_factory=PlanConfig)
