"""Norms of each layer's gradient and weights, as numpy computes them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from vggdist.training.layer_norms import layer_norms
from vggdist.training.norms import global_norm

SHAPES = {"vgg_stage1_conv1_weight": (8, 3, 3, 3), "vgg_stage1_conv1_bias": (8,), "vgg_output_weight": (2, 8)}


def arrays(seed: int) -> dict[str, mx.nd.NDArray]:
    rng = np.random.default_rng(seed)
    return {name: mx.nd.array(rng.normal(size=shape)) for name, shape in SHAPES.items()}


def test_a_layer_s_parameters_count_as_one_vector() -> None:
    weights, gradients = arrays(0), arrays(1)
    found = {name: float(norm.asscalar()) for name, norm in layer_norms(weights, gradients, prefix="vgg_").items()}
    assert list(found) == [
        "gradient_norm/stage1_conv1",
        "gradient_norm/output",
        "weight_norm/stage1_conv1",
        "weight_norm/output",
    ]
    both = np.concatenate([gradients[f"vgg_stage1_conv1_{kind}"].asnumpy().ravel() for kind in ("weight", "bias")])
    assert found["gradient_norm/stage1_conv1"] == pytest.approx(np.linalg.norm(both), rel=1e-6)
    assert found["weight_norm/output"] == pytest.approx(np.linalg.norm(weights["vgg_output_weight"].asnumpy()), rel=1e-6)


def test_the_layers_add_up_to_the_norm_of_the_whole_gradient() -> None:
    gradients = arrays(1)
    norms = [norm.asscalar() for name, norm in layer_norms(arrays(0), gradients).items() if name.startswith("gradient")]
    assert np.linalg.norm(norms) == pytest.approx(float(global_norm(gradients).asscalar()), rel=1e-6)


def test_gradients_of_a_scaled_loss_have_their_true_norms() -> None:
    gradients = arrays(1)
    scaled = {name: 1024 * gradient for name, gradient in gradients.items()}
    once, again = (layer_norms(arrays(0), one, scale) for one, scale in ((gradients, 1.0), (scaled, 1024.0)))
    assert all(float(again[name].asscalar()) == pytest.approx(float(norm.asscalar()), rel=1e-6) for name, norm in once.items())
