"""Buffers of batches that go round: fresh memory costs the system a page fault for every 4 KiB."""

from __future__ import annotations

import threading
import weakref

import numpy as np


class BufferPool:
    """Keeps the buffers that were given back for those who ask next. Safe from several threads at once.

    There are never more buffers than were in use at one time, so the loader's limit of batches bounds the memory. A buffer
    that is never given back is lost to the pool, and nothing else happens.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._lent: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A ``uint8`` array of this shape, with any content."""
        with self._lock:
            fitting = [place for place, buffer in enumerate(self._free) if buffer.shape == shape]
            if not fitting:
                self._free.clear()  # of another size: those are not asked for again
            buffer = self._free.pop(fitting[0]) if fitting else np.empty(shape, np.uint8)
            self._lent[id(buffer)] = buffer
        return buffer

    def give(self, buffer: np.ndarray) -> None:
        """Let others have a buffer of which nobody holds a view any more; an array from elsewhere is left alone."""
        with self._lock:
            if self._lent.pop(id(buffer), None) is buffer:
                self._free.append(buffer)
