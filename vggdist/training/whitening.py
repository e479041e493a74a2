"""Whitening of image patches by the first convolution (model.whitening)."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.data.augment import EvaluationView
from vggdist.models.layers import NETWORK_PREFIX
from vggdist.models.model import Model

_PIXELS, _EPSILON = 5000 * 32**2, 5e-4  # Jordan 2024, section 3.2: 5,000 images of CIFAR-10
_WEIGHT = f"{NETWORK_PREFIX}stage1_conv1_weight"


def whiten(model: Model, view: EvaluationView, world: World) -> None:
    """Set the first convolution on rank 0, if the network has model.whitening; every rank must call this.

    The covariance is that of evenly spaced images of the view: 5,000 of 32 px, and fewer if they are larger.

    Raises:
        RequestError: on every rank, if an image cannot be read, or images are smaller than the filters.
    """
    weight = model.parameters[_WEIGHT]

    def compute() -> None:
        if model.spec.architecture.whitening and world.is_root:
            count = min(len(view), max(1, _PIXELS // model.spec.image_size**2))
            samples = np.linspace(0, len(view) - 1, count).astype(np.int64)
            images = view.batch(samples, np.ones(len(samples), np.float32)).images
            pixels = model.inputs(mx.nd.array(images, ctx=model.device, dtype="uint8")).asnumpy()
            weight.set_data(mx.nd.array(whitened(weight.data().asnumpy(), pixels), ctx=model.device))

    world.together(compute)


def whitened(weight: NDArray[np.float32], pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight with filters whose outputs on the images are uncorrelated and have about unit variance.

    They are the eigenvectors of the patches' covariance, the largest eigenvalue first, each divided by the root of its
    eigenvalue, and followed by their negatives, since ReLU passes only one sign (Jordan 2024, section 3.2). Filters beyond
    ``2 * 9 I`` keep their weights.

    Args:
        weight: ``(O, I, 3, 3)``.
        pixels: ``(N, I, S, S)`` input of the network.

    Raises:
        RequestError: S is less than 3.
    """
    if (size := pixels.shape[-1]) < 3:
        raise RequestError(f"model.whitening needs images of at least 3x3 pixels, got {size}x{size}; see data.image_size")
    patches = sliding_window_view(sliding_window_view(pixels, 3, axis=2), 3, axis=3)[:, :, ::2, ::2]
    rows = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, weight[0].size).astype(np.float64)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    filters = (vectors / np.sqrt(values + _EPSILON)).T[::-1][: len(weight) // 2].reshape(-1, *weight.shape[1:])
    result = weight.copy()
    result[: 2 * len(filters)] = np.concatenate([filters, -filters])
    return result
