"""The type in which convolutions and fully connected layers compute."""

from __future__ import annotations

import logging
from pathlib import Path

import mxnet as mx
from mxnet.contrib import amp

from vggdist.config.errors import RequestError

logger = logging.getLogger(__name__)


def use_precision(precision: str, device: mx.Context, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Let the networks that this process builds from now on compute in a type; parameters and sums stay float32.

    bfloat16 has float32's range, so the loss needs no scaling, and no check for overflow either.

    Args:
        precision: ``float32`` or ``bfloat16``.

    Raises:
        RequestError: for bfloat16 on a GPU or on a CPU without AVX-512, for which MXNet 1.9.1 and its oneDNN do not have it.
    """
    if precision == "float32":
        return
    if device.device_type == "gpu":
        raise RequestError("train.precision is bfloat16, which MXNet has on the CPU only; use float32 on a GPU")
    amp.init(target_dtype="bfloat16")
    one = mx.nd.ones((1, 1, 1, 1))
    try:
        mx.nd.Convolution(one, one, kernel=(1, 1), num_filter=1, no_bias=True).wait_to_read()
    except mx.MXNetError as error:
        raise RequestError("train.precision is bfloat16, which MXNet has on CPUs with AVX-512 only; use float32") from error
    if cpuinfo.exists() and "avx512_bf16" not in cpuinfo.read_text():
        logger.warning("train.precision is bfloat16, but this CPU has no avx512_bf16: float32 is faster here")


def runs_on_onednn(precision: str, device: mx.Context) -> bool:
    """Whether the network shall be built for oneDNN in float32: see :class:`~vggdist.models.vgg.VGG`.

    In bfloat16 MXNet casts around batch normalisation and ReLU in one operation, so that they take longer than two.
    """
    return precision == "float32" and device.device_type == "cpu" and mx.runtime.Features().is_enabled("MKLDNN")
