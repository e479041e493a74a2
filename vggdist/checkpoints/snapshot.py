"""A copy of the network in host memory, taken without the training having to wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mxnet as mx
import numpy as np


class Snapshot:
    """Buffers for the same arrays again and again.

    When an operation has failed and its error was raised elsewhere, MXNet silently leaves out the copies that depend on it.
    So a mark that is not finite is put into each buffer between two copies, and found there when the second was left out.
    """

    def __init__(self, arrays: Mapping[str, mx.nd.NDArray]) -> None:
        """Make the buffers, which take as much host memory as the arrays: name -> array of any device."""
        # Filled, so that their memory is there before the first copy.
        self.buffers = {name: mx.nd.full(a.shape, np.nan, _host(a.context), a.dtype) for name, a in arrays.items()}

    def take(self, arrays: Mapping[str, mx.nd.NDArray]) -> None:
        """Copy the arrays, of the same names and shapes throughout, as all operations so far leave them.

        MXNet's engine orders the copies after the updates so far and before the next ones, so nothing waits here.
        """
        for name, array in arrays.items():
            array.copyto(self.buffers[name])

    def mark(self) -> None:
        """Put a value that is not finite into each buffer."""
        for buffer in self.buffers.values():
            buffer.reshape((-1,))[:1] = np.nan

    def is_whole(self) -> bool:
        """Whether every copy has replaced its mark; waits for the copies."""
        return all(np.isfinite(buffer.reshape((-1,))[:1].asscalar()) for buffer in self.buffers.values())

    def values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and memory of the buffers themselves, one after the other, each when its copy is complete."""
        for name, buffer in self.buffers.items():
            yield name, np.from_dlpack(_Lent(buffer))


def _host(device: mx.Context) -> mx.Context:
    """The kind of host memory for copies from a device.

    A GPU writes by itself into memory that is pinned; a copy into other memory keeps one of MXNet's few copying threads busy.
    The number matters: pinning for another GPU would open a context on that one, of some hundred MiB.
    """
    return mx.cpu_pinned(device.device_id) if device.device_type == "gpu" else mx.cpu()


class _Lent:
    """A host array as numpy asks for it to share its memory; the sharing waits for the operations that write to it."""

    def __init__(self, array: mx.nd.NDArray) -> None:
        self.array = array

    def __dlpack__(self, *, stream: None = None) -> Any:
        return self.array.to_dlpack_for_read()
