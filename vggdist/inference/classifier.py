"""A trained network for use in programs: images in memory to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock
from numpy.typing import NDArray

from vggdist.checkpoints.trained import Trained
from vggdist.config.errors import RequestError
from vggdist.data.decode import convert_channels
from vggdist.data.resize_crop import fixed_crops
from vggdist.inference.prediction import probabilities
from vggdist.models.model import Model

_IMAGES_AT_ONCE = 128


class Classifier:
    """A trained network with its class names and its preprocessing."""

    def __init__(self, trained: Trained, device: mx.Context) -> None:
        """Build the network on a device; ``RequestError`` if the checkpoint's parameters do not match it."""
        self.spec, self.step = trained.spec, trained.step
        self._model: Model = trained.model(device)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.spec.class_names

    @property
    def network(self) -> HybridBlock:
        """The Gluon block: normalised images ``(N, C, S, S) float32`` to ``(N, num_classes)`` scores."""
        return self._model.network

    def predict(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The probability of each class for each image.

        Images are scaled, cropped and normalised as in the training's evaluation; grey and RGB are converted.

        Args:
            images: ``(N, H, W)`` or ``(N, H, W, 1 or 3) uint8``, or a sequence of ``(H, W)`` or ``(H, W, 1 or 3) uint8`` of
                any sizes.

        Returns:
            ``(N, num_classes) float32``; the rows sum to 1.

        Raises:
            RequestError: an image has another type or shape.
        """
        source = _MemoryImages(images, self.spec.channels)
        rows = [np.empty((0, len(self.class_names)), np.float32)]
        for start in range(0, len(source), _IMAGES_AT_ONCE):
            samples = np.arange(start, min(start + _IMAGES_AT_ONCE, len(source)))
            framed = fixed_crops(source, samples, self.spec.resize, self.spec.image_size)
            rows.append(probabilities(self._model, framed).astype(np.float32))
        return np.concatenate(rows)


@dataclass(frozen=True)
class _MemoryImages:
    """Images of the caller (:class:`~vggdist.data.arrays.Images`)."""

    images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
    channels: int

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> NDArray[np.uint8]:
        image = np.asarray(self.images[index])
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
            raise RequestError(f"image {index} is {image.dtype} {image.shape}; expected uint8 (H, W) or (H, W, 1 or 3)")
        return convert_channels(pixels[None], self.channels)[0]
