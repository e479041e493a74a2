"""GPU queries through the CUDA driver, before MXNet runs anything: does this MXNet have code for the GPU?

MXNet's CUDA wheels contain machine code for some architectures and no PTX, the intermediate code that a driver could compile
for the others. On those the first operation fails with "no kernel image is available", seconds into a run. The driver
library is called through ctypes. It numbers the devices as MXNet does (``CUDA_VISIBLE_DEVICES`` applies to both).
"""

from __future__ import annotations

import ctypes
from importlib.metadata import distributions
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

Version = tuple[int, int]

_DRIVER = "libcuda.so.1"
_COMPILER = "libnvrtc.so.11.2"  # of every CUDA 11 from 11.2 on
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
_NAME_BYTES = 256

# mxnet-cu112 1.9.1 contains code for 5.0, 6.0, 7.0, 8.0 and 8.6. Code for one capability runs on every later one of the same
# major version (CUDA C++ Programming Guide, section "Binary Compatibility"): code for 8.6 on Ada's 8.9, but not on 9.0.
_FIRST_SUPPORTED, _FIRST_UNSUPPORTED = (5, 0), (9, 0)


class Gpu(NamedTuple):
    """Name and compute capability of a device, as the driver reports them."""

    name: str
    capability: tuple[int, int]
    """Compute capability, as (9, 0)."""


def usable() -> bool:
    """Whether MXNet will find a GPU and can run on it. Does not import MXNet."""
    return describe(0) is not None and refusal(0) is None and _mxnet_has_cuda()


def _mxnet_has_cuda() -> bool:
    """Whether the installed MXNet was built for CUDA: its library then contains the names of CUDA libraries."""
    found = find_spec("mxnet")
    library = Path(found.origin).with_name("libmxnet.so") if found and found.origin else None
    if library is None or not library.is_file():
        return False
    with library.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(b"libcuda") >= 0


def refusal(index: int) -> str | None:
    """Why this MXNet cannot run on the GPU of this index, and what to do; None if no reason is known.

    Only the official CUDA wheels of MXNet are checked: another build may contain code for any GPU. If the driver does not
    answer, None is returned as well, because MXNet's own error is more specific.
    """
    wheel = cuda_wheel()
    gpu = describe(index) if wheel is not None else None
    if wheel is None or gpu is None or _FIRST_SUPPORTED <= gpu.capability < _FIRST_UNSUPPORTED:
        return None
    capability = "{}.{}".format(*gpu.capability)
    return (
        f"GPU {index} ({gpu.name}) has compute capability {capability}, which {wheel} does not support: it has machine code "
        "for 5.0 to 8.6 (Maxwell to Ampere; Ada runs it) and no PTX; use --run.device cpu, a GPU of compute capability 5.0 to "
        f"8.9, or an MXNet built for {capability}"
    )


def cuda_wheel() -> str | None:
    """Name and version of an installed CUDA wheel of MXNet, as ``mxnet-cu112 1.9.1``; None if none is installed."""
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").replace("_", "-")
        if name.startswith("mxnet-cu"):
            return f"{name} {distribution.version}"
    return None


def describe(index: int) -> Gpu | None:
    """Name and compute capability of a GPU; None without a driver or without such a device."""
    found = _device(index)
    if found is None:
        return None
    driver, device = found
    major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    failed = (
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
    )
    return None if failed else Gpu(name.value.decode(errors="replace"), (major.value, minor.value))


def address(index: int) -> str | None:
    """The PCI address of a GPU as Linux writes it, such as ``0000:3b:00.0``; None if the driver does not answer.

    It is the same in every process and does not depend on ``CUDA_VISIBLE_DEVICES``.
    """
    found, text = _device(index), ctypes.create_string_buffer(_NAME_BYTES)
    if found is None or found[0].cuDeviceGetPCIBusId(text, _NAME_BYTES, found[1]):
        return None
    return text.value.decode().lower()


def addresses() -> list[str]:
    """The PCI addresses of all GPUs that are visible to this process, in MXNet's order."""
    found: list[str] = []
    while (one := address(len(found))) is not None:
        found.append(one)
    return found


def driver_cuda() -> Version | None:
    """The newest CUDA version that the driver supports, as (12, 2); None without a working driver."""
    driver, version = _driver(), ctypes.c_int()
    return None if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) else _version(version.value)


def compiler_cuda() -> Version | None:
    """The CUDA version of NVRTC, with which MXNet compiles fused operators; None without it. Call it after MXNet's import."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    try:
        failed = ctypes.CDLL(_COMPILER).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    except OSError:
        return None
    return None if failed else (major.value, minor.value)


def horovod_finds_driver() -> bool:
    """Whether the driver library exists under the name that Horovod opens (``horovod/mxnet/cuda_util.cc``)."""
    try:
        ctypes.CDLL("libcuda.so")
    except OSError:
        return False
    return True


def _device(index: int) -> tuple[ctypes.CDLL, ctypes.c_int] | None:
    driver, device = _driver(), ctypes.c_int()
    return None if driver is None or driver.cuDeviceGet(ctypes.byref(device), index) else (driver, device)


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def _version(number: int) -> Version:
    """11080 as (11, 8)."""
    return number // 1000, number % 1000 // 10
