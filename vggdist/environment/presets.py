"""Named sets of settings for MXNet, OpenMP, Open MPI and Horovod, each value with its reason or its source beside it.

Every name is one that MXNet 1.9.1 (its documentation, "Environment Variables", and ``GetEnv`` in its source), Horovod 0.28.1
(``horovod/common/common.h``), OpenMP or Open MPI reads. What others set and is not here, and why: docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vggdist.launcher.topology import Topology


@dataclass(frozen=True)
class Place:
    """What the settings are to suit.

    Attributes:
        cores: cores that this rank has for itself.
        deterministic: ``run.deterministic``.
        elastic: the number of ranks may change.
    """

    topology: Topology = Topology()
    cores: int = 1
    deterministic: bool = True
    elastic: bool = False


def cpu(place: Place) -> dict[str, str]:
    """For ranks that compute on cores."""
    return {
        # More threads than cores make the ranks of one host wait for each other.
        "OMP_NUM_THREADS": str(place.cores),
        # Idle ranks of Open MPI otherwise spin on the cores that compute.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # Milliseconds between two looks of Horovod's thread for work, for which a short step would wait.
        "HOROVOD_CYCLE_TIME": "1",
        # Gradients are copied into a buffer of this size; larger ones are summed where they lie. Each rank of the ring then
        # passes on 1 MiB at a time, enough for a network, and the buffer of a few ranks stays in their caches. All ranks must
        # have the same size; Horovod's own is 128 MiB.
        **({} if place.elastic else {"HOROVOD_FUSION_THRESHOLD": str(min(place.topology.size, 128) * 2**20)}),
    }


def gpu(place: Place) -> dict[str, str]:
    """For ranks that compute on GPUs.

    Sources: *NVIDIA*: DeepLearningExamples, MxNet/Classification/RN50v1.5/runner; *GluonCV*:
    scripts/classification/imagenet/train_horovod.py, for the memory pool scripts/instance/mask_rcnn/fit_mask_rcnn.py; *AWS*:
    "Reduce Training Time with Apache MXNet and Horovod on Amazon SageMaker".
    """
    return {
        # NVIDIA. What MXNet does on the cores beside a GPU is little, and they decode images.
        "OMP_NUM_THREADS": "1",
        # As on cores: MPI carries Horovod's messages, NCCL the gradients.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # NVIDIA: milliseconds. A GPU's step is short, and Horovod's thread has a core to itself.
        "HOROVOD_CYCLE_TIME": "0.1",
        # NVIDIA: 64 MiB.
        "HOROVOD_FUSION_THRESHOLD": "67108864",
        # NVIDIA, GluonCV, AWS: the forward pass is launched as one; the backward pass in pieces, so that the reduction of
        # its first gradients need not wait for the last.
        "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD": "999",
        "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD": "25",
        # NVIDIA, GluonCV, AWS: one batch is copied to the GPU at a time.
        "MXNET_GPU_COPY_NTHREADS": "1",
        # GluonCV, AWS: memory that is freed fits what is asked for next; sizes above 2^26 bytes are rounded to multiples.
        "MXNET_GPU_MEM_POOL_TYPE": "Round",
        "MXNET_GPU_MEM_POOL_ROUND_LINEAR_CUTOFF": "26",
        # MXNet's default: operators on single numbers, such as mask and loss, are compiled into one. 0 where NVRTC or the
        # driver is too old for that.
        "MXNET_USE_FUSION": "1",
        # GluonCV, AWS: 1 times cuDNN's algorithms and takes the fastest. That need not be the same one in the next run, or
        # on the next rank, and another sums in another order.
        "MXNET_CUDNN_AUTOTUNE_DEFAULT": "0" if place.deterministic else "1",
        # MXNet's documentation: only algorithms of cuDNN that repeat bit for bit.
        **({"MXNET_ENFORCE_DETERMINISM": "1"} if place.deterministic else {}),
    }


def none(place: Place) -> dict[str, str]:
    """Nothing is set."""
    return {}


PRESETS: Mapping[str, Callable[[Place], dict[str, str]]] = MappingProxyType({"cpu": cpu, "gpu": gpu, "none": none})
NAMES = tuple(dict.fromkeys(name for preset in PRESETS.values() for name in preset(Place())))
"""Every variable that a preset can set."""
TEXTS = ("MXNET_GPU_MEM_POOL_TYPE",)
"""Those that are no numbers."""
RECORDED = ("NVIDIA_TF32_OVERRIDE",)
"""Read by cuBLAS and cuDNN. Unless it is 0, float32 is TF32 (10 bits of mantissa) in them on Ampere and Ada."""
