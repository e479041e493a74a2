"""The numeric type of convolutions and fully connected layers."""

from __future__ import annotations

import logging
from pathlib import Path

import mxnet as mx
from mxnet.contrib import amp

from vggdist.config.errors import RequestError
from vggdist.environment import gpus
from vggdist.environment.cores import has_instructions

logger = logging.getLogger(__name__)

multiply_float32 = mx.nd.FullyConnected
"""The product ``x y^T`` in float32 for any precision, because it is bound before AMP replaces the function. On oneDNN it takes
half the time of ``mx.nd.dot``."""

convolve_float32 = {mx.nd: mx.nd.Convolution, mx.sym: mx.sym.Convolution}
"""The convolution in float32 for any precision, for arrays and for symbols, because it is bound before AMP replaces it."""

_TENSOR_CORES = (7, 0)
"""Compute capability from which float16 is faster than float32."""


def use_precision(precision: str, device: mx.Context, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Set the type of the networks that this process builds from now on; parameters and sums stay float32.

    MXNet's AMP casts the inputs of convolutions and fully connected layers, and runs operations between them that support
    both types in the same type (docs/gpu.md has the table). The parameters' gradients are float32.

    Args:
        precision: ``float32``, ``bfloat16`` or ``float16``. bfloat16 has float32's range, so the loss needs no scaling.

    Raises:
        RequestError: the device does not support it: bfloat16 needs a CPU with AVX-512, float16 a GPU of compute capability
            7.0 or higher.
    """
    if precision == "float16":
        _require_tensor_cores(device)
        amp.init(target_dtype="float16")
    elif precision == "bfloat16":
        _require_cpu(device)
        amp.init(target_dtype="bfloat16")
        _require_avx512(cpuinfo)


def has_half(device: mx.Context, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether a device supports a 16-bit type: float16 on a GPU, bfloat16 on a CPU. Changes nothing."""
    if device.device_type == "gpu":
        gpu = gpus.describe(device.device_id)
        return gpu is not None and gpu.capability >= _TENSOR_CORES
    return has_instructions("avx512bw", cpuinfo)


def _require_tensor_cores(device: mx.Context) -> None:
    advice = "use float32, or bfloat16 on a CPU"
    if device.device_type != "gpu":
        raise RequestError(f"train.precision is float16, which MXNet supports on GPUs only; {advice}")
    gpu = gpus.describe(device.device_id)
    if gpu is not None and gpu.capability < _TENSOR_CORES:
        raise RequestError(
            f"train.precision is float16, for which GPU {device.device_id} ({gpu.name}) of compute capability "
            f"{gpu.capability[0]}.{gpu.capability[1]} has no fast arithmetic; it needs 7.0 or higher: use float32"
        )


def _require_cpu(device: mx.Context) -> None:
    if device.device_type == "gpu":
        raise RequestError(
            "train.precision is bfloat16, which MXNet supports on the CPU only; use float16 or float32 on a GPU"
        )


def _require_avx512(cpuinfo: Path) -> None:
    one = mx.nd.ones((1, 1, 1, 1))
    try:
        mx.nd.Convolution(one, one, kernel=(1, 1), num_filter=1, no_bias=True).wait_to_read()
    except mx.MXNetError as error:
        raise RequestError(
            "train.precision is bfloat16, which MXNet supports on CPUs with AVX-512 only; use float32"
        ) from error
    if cpuinfo.exists() and not has_instructions("avx512_bf16", cpuinfo):
        logger.warning("train.precision is bfloat16, but this CPU has no avx512_bf16: float32 is faster here")


def onednn_precision(precision: str, device: mx.Context) -> str | None:
    """The precision for which to build the network on oneDNN, see :class:`~vggdist.models.vgg.VGG`; None: not on oneDNN."""
    return precision if device.device_type == "cpu" and mx.runtime.Features().is_enabled("MKLDNN") else None
