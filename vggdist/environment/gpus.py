"""Whether MXNet can run on a GPU, asked of the CUDA driver before anything runs there.

MXNet's CUDA wheels carry machine code for some architectures and no PTX, the intermediate code that a driver could compile
for the others. On those the first operation fails with "no kernel image is available", seconds into a run and far from its
cause. The driver library is asked by ctypes and only where MXNet already sees a GPU; it counts the devices as MXNet does
(``CUDA_VISIBLE_DEVICES`` holds for both).
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

# mxnet-cu112 1.9.1 carries code for 5.0, 6.0, 7.0, 8.0 and 8.6. Code for one capability runs on every later one of the same
# major number (CUDA C++ Programming Guide, section "Binary Compatibility"): 8.6's on Ada's 8.9, but on no 9.0.
_FIRST, _BEYOND = (5, 0), (9, 0)


class Gpu(NamedTuple):
    """A device as the driver describes it."""

    name: str
    capability: tuple[int, int]
    """Compute capability, as (9, 0)."""


def usable() -> bool:
    """Whether MXNet will see a GPU and can run on it, without importing it."""
    return describe(0) is not None and refusal(0) is None and _knows_cuda()


def _knows_cuda() -> bool:
    """Whether the installed MXNet was built for CUDA: its library then names those of CUDA that it needs."""
    found = find_spec("mxnet")
    library = Path(found.origin).with_name("libmxnet.so") if found and found.origin else None
    if library is None or not library.is_file():
        return False
    with library.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(b"libcuda") >= 0


def refusal(index: int) -> str | None:
    """Why this MXNet cannot run on the GPU of this index, and what to do; None where nothing speaks against it.

    Nothing does where MXNet is not installed under the name of its publisher's CUDA wheels, for a build of one's own may
    carry code for any GPU, and where the driver does not answer: MXNet's own error then says more.
    """
    wheel = cuda_wheel()
    gpu = describe(index) if wheel is not None else None
    if wheel is None or gpu is None or _FIRST <= gpu.capability < _BEYOND:
        return None
    capability = "{}.{}".format(*gpu.capability)
    return (
        f"GPU {index} ({gpu.name}) has compute capability {capability}, and {wheel} cannot run there: it carries machine code "
        "for 5.0 to 8.6 (Maxwell to Ampere; Ada runs it) and no PTX; use --run.device cpu, a GPU of compute capability 5.0 to "
        f"8.9, or an MXNet built for {capability}"
    )


def cuda_wheel() -> str | None:
    """Name and version of an installed CUDA wheel of MXNet, as ``mxnet-cu112 1.9.1``; None where there is none."""
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").replace("_", "-")
        if name.startswith("mxnet-cu"):
            return f"{name} {distribution.version}"
    return None


def describe(index: int) -> Gpu | None:
    """Ask the driver; None where there is no driver, or it does not know the device."""
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
    """The PCI address of a GPU as Linux writes it, such as ``0000:3b:00.0``; None where the driver does not answer.

    It is the same in every process, whatever ``CUDA_VISIBLE_DEVICES`` hides from it.
    """
    found, text = _device(index), ctypes.create_string_buffer(_NAME_BYTES)
    if found is None or found[0].cuDeviceGetPCIBusId(text, _NAME_BYTES, found[1]):
        return None
    return text.value.decode().lower()


def addresses() -> list[str]:
    """The PCI addresses of all GPUs that this process sees, in MXNet's order."""
    found: list[str] = []
    while (one := address(len(found))) is not None:
        found.append(one)
    return found


def driver_cuda() -> Version | None:
    """The newest CUDA whose code the driver loads, as (12, 2); None where there is no driver that starts."""
    driver, version = _driver(), ctypes.c_int()
    return None if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) else _version(version.value)


def compiler_cuda() -> Version | None:
    """The CUDA of NVRTC, by which MXNet compiles fused operators; None where there is none. After MXNet's import."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    try:
        failed = ctypes.CDLL(_COMPILER).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    except OSError:
        return None
    return None if failed else (major.value, minor.value)


def horovod_finds_driver() -> bool:
    """Whether the driver is there under the name by which Horovod opens it (``horovod/mxnet/cuda_util.cc``)."""
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
