"""A copy of the network in host memory that does not block the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray


class Snapshot:
    """Reusable buffers for copies of the same arrays.

    When an operation has failed and its error was raised elsewhere, MXNet silently skips the copies that depend on it. So
    between two copies each buffer is marked with a value that is not finite, which is still there if a copy was skipped.
    """

    def __init__(self, arrays: Mapping[str, mx.nd.NDArray]) -> None:
        """Allocate the buffers, as much host memory as the arrays: name -> array on any device."""
        # Filled, so that the memory is allocated before the first copy.
        self.buffers = {name: mx.nd.full(a.shape, np.nan, _host(a.context), a.dtype) for name, a in arrays.items()}

    def take(self, arrays: Mapping[str, mx.nd.NDArray]) -> None:
        """Enqueue a copy of the arrays, which always have the same names and shapes.

        MXNet's engine orders the copies after earlier updates and before later ones, so nothing waits here.
        """
        for name, array in arrays.items():
            array.copyto(self.buffers[name])

    def mark(self) -> None:
        """Write a value that is not finite into each buffer."""
        for buffer in self.buffers.values():
            buffer.reshape((-1,))[:1] = np.nan

    def is_whole(self) -> bool:
        """Whether every copy has replaced its mark; waits for the copies."""
        return all(np.isfinite(buffer.reshape((-1,))[:1].asscalar()) for buffer in self.buffers.values())

    def values(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Names and buffers, one at a time, each when its copy is complete; the values share the buffers' memory."""
        for name, buffer in self.buffers.items():
            yield name, np.from_dlpack(_Shared(buffer))


def _host(device: mx.Context) -> mx.Context:
    """Host memory for copies from a device.

    A GPU writes into pinned memory by DMA; a copy into other memory occupies one of MXNet's few copy threads. The device
    number matters: pinning for another GPU would open a context of some hundred MiB there.
    """
    return mx.cpu_pinned(device.device_id) if device.device_type == "gpu" else mx.cpu()


class _Shared:
    """A host array by the DLPack protocol, which waits for pending writes."""

    def __init__(self, array: mx.nd.NDArray) -> None:
        self.array = array

    def __dlpack__(self, *, stream: None = None) -> Any:
        return self.array.to_dlpack_for_read()
