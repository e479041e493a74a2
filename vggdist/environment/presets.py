"""Presets of environment variables for MXNet, OpenMP, Open MPI and Horovod, each value with its reason or source.

Each variable is read by MXNet 1.9.1 (its documentation, "Environment Variables", and ``GetEnv`` in its source), Horovod 0.28.1
(``horovod/common/common.h``), OpenMP or Open MPI. docs/performance.md explains which common settings are left out, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vggdist.launcher.topology import Topology


@dataclass(frozen=True)
class RankContext:
    """The properties of a rank on which the settings depend.

    Attributes:
        cores: number of cores of this rank.
        deterministic: ``run.deterministic``.
        elastic: the number of ranks may change.
    """

    topology: Topology = Topology()
    cores: int = 1
    deterministic: bool = True
    elastic: bool = False


def cpu(rank: RankContext) -> dict[str, str]:
    """Settings for ranks that compute on the CPU."""
    return {
        # More threads than cores make the ranks of one host wait for each other.
        "OMP_NUM_THREADS": str(rank.cores),
        # Otherwise idle ranks of Open MPI busy-wait on the cores that compute.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # Milliseconds between two polls of Horovod's thread; a short step would wait for it.
        "HOROVOD_CYCLE_TIME": "1",
        # Bytes of the fusion buffer; larger gradients are summed in place. With this size each rank of the ring sends 1 MiB at
        # a time, enough for a network, and the buffer of a few ranks fits their caches. All ranks must have the same size.
        # Horovod's default is 128 MiB.
        **({} if rank.elastic else {"HOROVOD_FUSION_THRESHOLD": str(min(rank.topology.size, 128) * 2**20)}),
    }


def gpu(rank: RankContext) -> dict[str, str]:
    """Settings for ranks that compute on GPUs.

    Sources: *NVIDIA*: DeepLearningExamples, MxNet/Classification/RN50v1.5/runner; *GluonCV*:
    scripts/classification/imagenet/train_horovod.py, for the memory pool scripts/instance/mask_rcnn/fit_mask_rcnn.py; *AWS*:
    "Reduce Training Time with Apache MXNet and Horovod on Amazon SageMaker".
    """
    return {
        # NVIDIA. Beside a GPU MXNet computes little on the cores, and they decode images.
        "OMP_NUM_THREADS": "1",
        # As with cpu: MPI carries Horovod's control messages, NCCL the gradients.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # NVIDIA: milliseconds. A step on a GPU is short, and Horovod's thread has its own core.
        "HOROVOD_CYCLE_TIME": "0.1",
        # NVIDIA: 64 MiB.
        "HOROVOD_FUSION_THRESHOLD": "67108864",
        # NVIDIA, GluonCV, AWS: the forward pass is launched as one bulk; the backward pass in segments, so that the reduction
        # of the first gradients starts before the last ones are computed.
        "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD": "999",
        "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD": "25",
        # NVIDIA, GluonCV, AWS: one batch is copied to the GPU at a time.
        "MXNET_GPU_COPY_NTHREADS": "1",
        # GluonCV, AWS: rounded sizes let freed memory be reused; above 2^26 bytes they are multiples of that.
        "MXNET_GPU_MEM_POOL_TYPE": "Round",
        "MXNET_GPU_MEM_POOL_ROUND_LINEAR_CUTOFF": "26",
        # MXNet's default: elementwise operators, such as mask and loss, are compiled into one. Set 0 if NVRTC or the driver is
        # too old for that.
        "MXNET_USE_FUSION": "1",
        # GluonCV, AWS: with 1 cuDNN measures its algorithms and takes the fastest. Another run or rank may take another
        # algorithm, which sums in another order.
        "MXNET_CUDNN_AUTOTUNE_DEFAULT": "0" if rank.deterministic else "1",
        # MXNet's documentation: only deterministic algorithms of cuDNN.
        **({"MXNET_ENFORCE_DETERMINISM": "1"} if rank.deterministic else {}),
    }


def none(rank: RankContext) -> dict[str, str]:
    """No settings."""
    return {}


PRESETS: Mapping[str, Callable[[RankContext], dict[str, str]]] = MappingProxyType({"cpu": cpu, "gpu": gpu, "none": none})
NAMES = tuple(dict.fromkeys(name for preset in PRESETS.values() for name in preset(RankContext())))
"""All variables that a preset can set."""
TEXTS = ("MXNET_GPU_MEM_POOL_TYPE",)
"""The variables whose values are not numbers."""
RECORDED = ("NVIDIA_TF32_OVERRIDE",)
"""Read by cuBLAS and cuDNN. Unless it is 0, they compute float32 as TF32 (10 bits of mantissa) on Ampere and Ada."""
