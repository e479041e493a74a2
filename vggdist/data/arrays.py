"""Interface of a part (training, validation or test split) of a data set, and a part whose images are in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Images(Protocol):
    """Indexed images. Reading is thread-safe."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of an image for messages: its path, or its number if it has no path."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode an image to ``(H, W, C) uint8``; ``DamagedImageError`` if that fails."""


class Source(Images, Protocol):
    """One part of a data set: images and labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label, the same in all parts."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """``(N,) int32``."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(H, W, C)``, or None if the images may differ in size."""

    @property
    def left_out(self) -> int:
        """Number of damaged images that were left out (data.damaged is skip)."""


@dataclass(eq=False)
class ArraySource:
    """Images of one size in memory: ``images`` is ``(N, H, W, C) uint8``, ``labels`` is ``(N,) int32``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    left_out: int = 0
    name: Callable[[int], str] = str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)``."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.images.shape[-1]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[np.uint8]:
        """A view of one image: ``(H, W, C) uint8``."""
        return self.images[index]


class Subset:
    """The images of another source at ``(N,)`` indices, in that order."""

    image_shape: tuple[int, int, int] | None

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self.class_names, self.labels = source.class_names, source.labels[indices]
        self.image_shape, self.channels, self.left_out = source.image_shape, source.channels, 0

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """The name in the source."""
        return self._source.name(int(self._indices[index]))

    def read(self, index: int) -> NDArray[np.uint8]:
        """``(H, W, C) uint8``."""
        return self._source.read(int(self._indices[index]))
