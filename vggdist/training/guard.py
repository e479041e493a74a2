"""Skips the update of a step whose gradients are not finite. The device decides, so that nothing waits for it."""

from __future__ import annotations

from collections.abc import Iterable

import mxnet as mx
from mxnet.ndarray import NDArray


class Guard:
    """Saves arrays before a step, to restore them if its update is skipped."""

    def __init__(self, arrays: Iterable[NDArray]) -> None:
        """Allocate as much memory as the arrays, which are on one device, and a byte for each element of the largest."""
        self._arrays = list(arrays)
        device = self._arrays[0].context
        self._before = [mx.nd.zeros(array.shape, ctx=device, dtype=array.dtype) for array in self._arrays]
        # One flag for each element: with a flag for each row, mx.nd.where takes five times as long on a CPU.
        self._flags = mx.nd.zeros((max(array.size for array in self._arrays),), ctx=device, dtype="uint8")

    def save(self) -> None:
        """Enqueue a copy of the arrays, after all operations so far."""
        for array, before in zip(self._arrays, self._before):
            array.copyto(before)

    def restore_unless(self, finite: NDArray) -> None:
        """If ``finite``, ``(1,)`` on the device, is 0, set the arrays, in place, to what :meth:`save` copied, bit for bit."""
        mx.nd.broadcast_to(finite.astype("uint8"), shape=self._flags.shape, out=self._flags)
        for array, before in zip(self._arrays, self._before):
            mx.nd.where(self._flags[: array.size].reshape(array.shape), array, before, out=array)


def all_finite(arrays: Iterable[NDArray]) -> NDArray:
    """``(1,) float32`` on the device: 1 if every value is finite, else 0; nothing waits."""
    first, *others = arrays
    finite = mx.nd.all_finite(first)
    for array in others:  # multi_all_finite takes a hundred times as long on a CPU
        mx.nd.all_finite(array, init_output=False, out=finite)
    return finite
