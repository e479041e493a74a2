"""Norms of the gradient and the weights of each layer, to find layers that do not learn."""

from __future__ import annotations

from collections.abc import Mapping

import mxnet as mx

from vggdist.training.norms import sum_of_squares


def layer_norms(
    weights: Mapping[str, mx.nd.NDArray], gradients: Mapping[str, mx.nd.NDArray], scale: float = 1.0, prefix: str = ""
) -> dict[str, mx.nd.NDArray]:
    """Euclidean norms of each layer's gradient and weights, ``(1,) float32`` on their device; nothing waits.

    The weights and biases of a layer count as one vector, so the squares of the gradients' norms add up to that of the global
    norm.

    Args:
        weights, gradients: by parameter name, which ends with ``_weight`` and the like.
        scale: factor of the given gradients; their norms are divided by it.
        prefix: of these names, removed in the result.

    Returns:
        By metric name: ``gradient_norm/stage1_conv1`` and so on in the order of the layers, then ``weight_norm/``.
    """
    layers: dict[str, list[str]] = {}
    for name in gradients:
        layers.setdefault(name.removeprefix(prefix).rpartition("_")[0], []).append(name)
    return {
        f"{kind}/{layer}": mx.nd.add_n(*(sum_of_squares(arrays[name]) for name in names)).sqrt() / factor
        for kind, arrays, factor in (("gradient_norm", gradients, scale), ("weight_norm", weights, 1.0))
        for layer, names in layers.items()
    }
