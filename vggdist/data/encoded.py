"""Images that are decoded each time they are read, each at the scale that its reader needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vggdist.data.decode import Encoded, Photograph


class Store(Protocol):
    """Where encoded images lie, by number. Reading is safe from several threads at once."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """How a person finds an image: its path, or the record file and its key."""

    def stamp(self, index: int) -> str:
        """Changes when what is stored changes: sizes and times of files."""

    def mark(self, index: int) -> bytes:
        """What is known of an image without reading it, and is the same in a copy of the data set elsewhere."""

    def read(self, index: int) -> Encoded:
        """One image; ``DamagedImageError`` where what is stored is damaged, ``RequestError`` where it cannot be read."""

    def take(self, indices: Sequence[int] | np.ndarray) -> Store:
        """The images at ``indices`` alone, in that order."""


class EncodedSource:
    """One part of a data set, decoded on demand (a :class:`vggdist.data.dataset.Source`)."""

    def __init__(
        self, store: Store, labels: np.ndarray, class_names: tuple[str, ...], channels: int, left_out: int = 0
    ) -> None:
        """Take the images of ``store``, their ``(N,) int32`` labels, and 1 (grey) or 3 (RGB) channels.

        Args:
            left_out: damaged images that were beside them.
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
        """Its path, or the record file and its key."""
        return self.store.name(index)

    def photograph(self, index: int) -> Photograph:
        """One image, its size known, its pixels not decoded; ``DamagedImageError`` names one that is no image."""
        return Photograph(self.store.read(index))

    def read(self, index: int) -> np.ndarray:
        """Decode one image: ``(H, W, C) uint8``; ``DamagedImageError`` names one that does not decode."""
        return self.photograph(index).pixels(self.channels)
