"""A fully connected layer outputs the factors of its weight's gradient, and otherwise equals Gluon's."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from vggdist.models.dense import FactoredDense, fully_connected


def made(kind: type[nn.Dense]) -> nn.Dense:
    layer = kind(5, in_units=7, prefix="layer_")
    layer.initialize(mx.init.Constant(0.5))
    return layer


def test_without_an_offset_it_is_gluon_s_layer_with_the_same_names() -> None:
    x = mx.nd.random.normal(shape=(3, 7))
    ours, gluon_s = made(FactoredDense), made(nn.Dense)
    assert list(ours.collect_params()) == list(gluon_s.collect_params())
    np.testing.assert_array_equal(ours(x).asnumpy(), gluon_s(x).asnumpy())


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_weight_s_gradient_is_the_product_of_the_offset_s_gradient_and_the_input(hybrid: bool) -> None:
    class Network(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__(prefix="")
            self.layer = made(FactoredDense)

        def hybrid_forward(self, F: Any, x: Any, offset: Any) -> Any:
            self.layer.offset = offset
            y = self.layer(F.relu(x))
            return F.sum(y * y), self.layer.seen

    network = Network()
    if hybrid:
        network.hybridize(static_alloc=True, static_shape=True)
    x, offset = mx.nd.random.normal(shape=(3, 7)), mx.nd.zeros((3, 5))
    offset.attach_grad()
    with autograd.record():
        loss, seen = network(x, offset)
    loss.backward()
    np.testing.assert_array_equal(seen.asnumpy(), np.maximum(x.asnumpy(), 0))
    product = mx.nd.dot(offset.grad, seen, transpose_a=True).asnumpy()
    np.testing.assert_allclose(product, network.layer.weight.grad().asnumpy(), rtol=1e-5, atol=1e-6)


def test_the_layers_of_a_network_are_found_in_their_order() -> None:
    network = nn.HybridSequential()
    inner = nn.HybridSequential()
    first, second = FactoredDense(2, in_units=2), FactoredDense(3, in_units=2)
    inner.add(nn.Flatten(), first)
    network.add(inner, nn.Dense(2, in_units=2), second)
    assert fully_connected(network) == [first, second]
