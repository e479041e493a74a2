"""Encoded images, decoded each time they are read, at the size that the reader needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggdist.data.decode import Encoded, LazyImage


class Store(Protocol):
    """Storage of indexed encoded images. Reading is thread-safe."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of an image for messages: its path, or the record file and its key."""

    def stamp(self, index: int) -> str:
        """Size and modification time of an image's file, to detect changes."""

    def mark(self, index: int) -> bytes:
        """Properties of an image that need no read of its content and are the same in a copy of the data set."""

    def read(self, index: int) -> Encoded:
        """Read one image; ``DamagedImageError`` if the stored data are damaged, ``RequestError`` if they cannot be read."""

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Store:
        """A store of the images at ``indices``, in that order."""


class EncodedSource:
    """One part of a data set, decoded on demand (a :class:`vggdist.data.dataset.Source`)."""

    def __init__(
        self, store: Store, labels: NDArray[np.int32], class_names: tuple[str, ...], channels: int, left_out: int = 0
    ) -> None:
        """Take the images of ``store``, their ``(N,) int32`` labels, and 1 (grey) or 3 (RGB) channels.

        Args:
            left_out: number of damaged images that were left out.
        """
        self.store, self.labels, self.class_names = store, labels, class_names
        self.channels, self.left_out = channels, left_out

    @property
    def image_shape(self) -> None:
        """None: the images may differ in size."""
        return None

    def __len__(self) -> int:
        return len(self.store)

    def name(self, index: int) -> str:
        """The path of an image, or the record file and its key."""
        return self.store.name(index)

    def open(self, index: int) -> LazyImage:
        """Read the header of an image without decoding it; ``DamagedImageError`` if it is not an image."""
        return LazyImage(self.store.read(index))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode one image: ``(H, W, C) uint8``; ``DamagedImageError`` if it does not decode."""
        return self.open(index).pixels(self.channels)
