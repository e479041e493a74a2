"""What every part of a data set offers, and one whose images are in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Images(Protocol):
    """Images by number. Reading is safe from several threads at once."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """How a person finds an image: its path, or where there is none its number."""

    def read(self, index: int) -> np.ndarray:
        """``(H, W, C) uint8``; ``DamagedImageError`` where it does not decode."""


class Source(Images, Protocol):
    """One part, training or test, of a data set."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label; the test part has those of the training part."""

    @property
    def labels(self) -> np.ndarray:
        """``(N,) int32``."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(H, W, C)``, or None where the images may differ in size."""

    @property
    def left_out(self) -> int:
        """Damaged images that are not among these, since data.damaged is skip."""


@dataclass(eq=False)
class ArraySource:
    """Images of one size, in memory: ``images`` is ``(N, H, W, C) uint8``, ``labels`` is ``(N,) int32``."""

    images: np.ndarray
    labels: np.ndarray
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

    def read(self, index: int) -> np.ndarray:
        """A view of one image: ``(H, W, C) uint8``."""
        return self.images[index]


class Subset:
    """Some images of another source, at ``(N,)`` indices and in that order."""

    image_shape: tuple[int, int, int] | None

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self._source, self._indices = source, indices
        self.class_names, self.labels = source.class_names, source.labels[indices]
        self.image_shape, self.channels, self.left_out = source.image_shape, source.channels, 0

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """As the source has it."""
        return self._source.name(int(self._indices[index]))

    def read(self, index: int) -> np.ndarray:
        """``(H, W, C) uint8``."""
        return self._source.read(int(self._indices[index]))
