"""The model of :mod:`vggdist.planning.scaling` and the measurements of Horovod's authors with VGG-16 on Pascal GPUs.

All runs: TensorFlow's benchmark, 224 px, 64 images a GPU, float32, 4 GPUs a server on PCIe, NCCL's ring, a fusion buffer of
64 MiB (Horovod's default then). Two numbers are calibrated, each on one run, and used for all: the share of the network's line
rate that a reduction uses with RDMA and with TCP.
"""

from __future__ import annotations

from dataclasses import dataclass

from vggdist.config.schema import ModelConfig
from vggdist.models.layers import describe
from vggdist.planning.collective_times import Cluster, Link
from vggdist.planning.scaling import Exchange, Workload, step_seconds

RDMA_SHARE = 0.81  # calibrated on the first run below; exactly 0.8125
TCP_SHARE = 0.54  # calibrated on the second; exactly 0.537
NETWORK_LATENCY_S = 9.6e-6  # NCCL at 01afd20a, src/graph/tuning.cc: hwLat, NET, ring, Simple
HOST_LATENCY_S = 5.7e-6  # the same, PCI
HOST_BANDWIDTH = 12e9  # bytes/s; NCCL, src/graph/topo.h: PCI_BW, PCIe 3.0 x16
FUSION_BYTES = 64 * 2**20  # Horovod's default until 2020-11-19 (3ffe479e)
BATCH_SIZE = 64


@dataclass(frozen=True)
class Measurement:
    """A published run.

    Attributes:
        images_per_s: of one GPU.
        line_rate: of a server's network in Gbit/s.
        share: of the line rate that the model assumes.
        speed_up: measured, over one GPU.
        source: where it was published.
        calibrates: the share was fitted to this run.
    """

    ranks: int
    network: str
    images_per_s: float
    line_rate: float
    share: float
    speed_up: float
    source: str
    calibrates: bool = False


_TABLES = "Horovod README, 2017-09-05 (d54e3a88)"
MEASUREMENTS = (
    Measurement(16, "25 Gbit/s RDMA", 130.9, 25, RDMA_SHARE, 1787.4 / 130.9, _TABLES, calibrates=True),
    Measurement(16, "25 Gbit/s TCP", 130.9, 25, TCP_SHARE, 1308.7 / 130.9, _TABLES, calibrates=True),
    Measurement(64, "40 Gbit/s TCP", 149.6, 40, TCP_SHARE, 6084.2 / 149.6, _TABLES),
    # The rate of one GPU is not published for these; it is that of the 16 GPUs with the same servers and network.
    Measurement(128, "25 Gbit/s RDMA", 130.9, 25, RDMA_SHARE, 0.79 * 128, "Horovod README, 2017-10-17 (6bb6a2db)"),
    # "30 percent" more with RDMA than with TCP.
    Measurement(128, "25 Gbit/s TCP", 130.9, 25, TCP_SHARE, 0.79 / 1.30 * 128, "Sergeev & Del Balso 2018, Horovod Benchmarks"),
    Measurement(512, "25 Gbit/s RDMA", 130.9, 25, RDMA_SHARE, 0.68 * 512, "Horovod README, 2018-05-10 (8318a898)"),
)


def predicted_speed_up(run: Measurement) -> float:
    """The model's speed-up of a run over one GPU."""
    layers = describe(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000)
    between = Link(NETWORK_LATENCY_S, run.share * run.line_rate * 1e9 / 8)
    cluster = Cluster(4, Link(HOST_LATENCY_S, HOST_BANDWIDTH), between)
    seconds = BATCH_SIZE / run.images_per_s
    workload = Workload(layers, seconds, BATCH_SIZE, exchange=Exchange(cap=None, fusion_threshold=FUSION_BYTES))
    return run.ranks * workload.seconds / step_seconds(workload, cluster, "ring", run.ranks)
