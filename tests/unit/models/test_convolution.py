"""The convolution of four pixels equals a matrix product, which is used if it is faster."""

from __future__ import annotations

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from vggdist.config.schema import ModelConfig
from vggdist.models.convolution import MatrixConv2D
from vggdist.models.layers import suits_matrix
from vggdist.models.vgg import VGG, build_vgg


def run(layer: nn.Conv2D, x: mx.nd.NDArray, head: mx.nd.NDArray) -> list[np.ndarray]:
    """The result and the gradients of the input and of the parameters."""
    x.attach_grad()
    with mx.autograd.record():
        y = layer(x)
    y.backward(head)
    return [array.asnumpy() for array in (y, x.grad, *(p.grad() for p in layer.collect_params().values()))]


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_results_and_gradients_are_those_of_a_convolution(bias: bool, hybrid: bool) -> None:
    options = {"use_bias": bias, "in_channels": 3, "prefix": "conv_"}
    layers = nn.Conv2D(5, 3, padding=1, **options), MatrixConv2D(5, **options)
    draw = np.random.default_rng(0)
    for layer in layers:
        layer.initialize()
    for name, parameter in layers[0].collect_params().items():
        parameter.set_data(mx.nd.array(draw.normal(size=parameter.shape)))
        layers[1].collect_params()[name].set_data(parameter.data())
    if hybrid:
        layers[1].hybridize(static_alloc=True, static_shape=True)
    x, head = (mx.nd.array(draw.normal(size=(4, channels, 2, 2))) for channels in (3, 5))
    convolution, product = (run(layer, x, head) for layer in layers)
    assert len(product) == 3 + bias
    for expected, found in zip(convolution, product, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def build(model: ModelConfig, size: int, onednn: str | None, samples: int = 64) -> VGG:
    return build_vgg(model, channels=3, image_size=size, num_classes=10, seed=1, onednn=onednn, samples=samples)


def products(network: VGG) -> list[str]:
    """The names of the layers that are computed as products."""
    blocks: list[mx.gluon.Block] = []
    network.apply(blocks.append)
    return [block.prefix for block in blocks if isinstance(block, MatrixConv2D)]


def test_the_last_stage_of_a_vgg_on_small_images_is_products_on_onednn_for_more_than_a_few_samples() -> None:
    model = ModelConfig(name="vgg11", hidden=())
    assert products(build(model, 32, onednn="float32")) == ["vgg_stage5_conv1_", "vgg_stage5_conv2_"]
    others = build(model, 64, onednn="float32"), build(model, 32, onednn=None), build(model, 32, onednn="float32", samples=63)
    assert all(products(network) == [] for network in others)


def test_convolutions_of_few_channels_or_without_padding_stay() -> None:
    model = ModelConfig(name="custom", stages=((1, 256),), hidden=())
    assert suits_matrix(model, 256, (256, 2, 2), 64) and not suits_matrix(model, 256, (256, 2, 2), 63)
    assert not suits_matrix(model, 128, (256, 2, 2), 64) and not suits_matrix(model, 256, (256, 4, 4), 64)
    assert not suits_matrix(replace(model, padding=0), 256, (256, 2, 2), 64)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_network_of_products_starts_with_the_same_values_and_gives_the_same_scores(batch_norm: bool) -> None:
    model = ModelConfig(name="vgg11", batch_norm=batch_norm, hidden=())
    plain, fast = (build(model, 32, onednn) for onednn in (None, "float32"))
    assert list(plain.collect_params()) == list(fast.collect_params())
    for one, other in zip(plain.collect_params().values(), fast.collect_params().values()):
        assert np.array_equal(one.data().asnumpy(), other.data().asnumpy())
    x = mx.nd.array(np.random.default_rng(0).normal(size=(4, 3, 32, 32)))
    np.testing.assert_allclose(fast(x).asnumpy(), plain(x).asnumpy(), rtol=1e-4, atol=1e-5)
