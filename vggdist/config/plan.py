"""Options of ``vggdist plan``, in addition to those of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from vggdist.config.errors import require
from vggdist.config.schema import Config


@dataclass(frozen=True)
class PlanConfig:
    """The planned job and its hardware."""

    ranks: int = 2
    """Ranks of the job; scaling is predicted for 1, 2, 4 ... up to this number."""
    ranks_per_host: int = 4
    """Ranks per host."""
    images_per_s: float | None = None
    """Training throughput of a single rank in images/s, measured on the target hardware with its batch size. null: scaling is
    not predicted."""
    samples: int | None = None
    """Number of training samples. null: that of the data set, which must be readable."""
    memory: float | None = None
    """Memory limit of one rank in GiB; a plan that needs more is an error. null: memory is only estimated."""
    cores: int | None = None
    """Cores per host; the plan warns if decoding limits the throughput. null: not checked."""
    short_side: int | None = None
    """Short side of the stored images in pixels (vggdist prepare --short-side). null: that of ImageNet's images."""
    network_bandwidth: float = 25.0
    """Line rate of the network between hosts, Gbit/s per host."""
    network_share: float = 0.81
    """Fraction of the line rate that an allreduce reaches; calibrated on published runs: 0.81 with RDMA, 0.54 with TCP."""
    network_latency: float = 9.6
    """Latency of one message between hosts in microseconds (NCCL's constant for its ring)."""
    byte_cost: float = 0.0
    """Core time of a rank per sent byte in nanoseconds. 0: communication runs on other cores. Measured with Gloo on a rank's
    only core: 2.3, with compressed gradients 7 (docs/plan.md)."""
    host_bandwidth: float = 96.0
    """Bandwidth between two ranks of one host, Gbit/s (NCCL's constant for PCIe 3.0 x16)."""
    host_latency: float = 5.7
    """Latency of one message within a host in microseconds (NCCL's constant for its ring over PCIe)."""
    fusion_threshold: float = 128.0
    """Horovod's fusion buffer in MiB (HOROVOD_FUSION_THRESHOLD)."""
    published: bool = False
    """Instead of a plan, print the model's predictions for published measurements beside the measured values."""

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
        require(0 < self.network_share <= 1, "plan.network_share", self.network_share, "a fraction above 0 and at most 1")


@dataclass(frozen=True)
class PlanRequest(Config):
    """A run and the job that is planned for it."""

    plan: PlanConfig = field(default_factory=PlanConfig)
