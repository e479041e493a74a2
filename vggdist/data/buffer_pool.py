"""Pool of reusable batch buffers: freshly allocated memory costs a page fault per 4 KiB."""

from __future__ import annotations

import threading
import weakref

import numpy as np
from numpy.typing import NDArray


class BufferPool:
    """Reuses released buffers. Thread-safe.

    The pool never has more buffers than were in use at one time, so the loader's limit of batches bounds its memory. A buffer
    that is not released is garbage collected as usual.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._in_use: weakref.WeakValueDictionary[int, NDArray[np.uint8]] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def acquire(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An uninitialised array of a shape."""
        with self._lock:
            fitting = [index for index, buffer in enumerate(self._free) if buffer.shape == shape]
            if not fitting:
                self._free.clear()  # of another size, which is not needed again
            buffer = self._free.pop(fitting[0]) if fitting else np.empty(shape, np.uint8)
            self._in_use[id(buffer)] = buffer
        return buffer

    def release(self, buffer: NDArray[np.uint8]) -> None:
        """Return a buffer to the pool; no view of it may be in use. Arrays that are not from the pool are ignored."""
        with self._lock:
            if self._in_use.pop(id(buffer), None) is buffer:
                self._free.append(buffer)
