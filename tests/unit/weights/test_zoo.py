"""Weights of Gluon's model zoo networks give the same scores in our network. They are random: nothing is downloaded."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

from vggdist.collectives.world import World
from vggdist.config.schema import ModelConfig
from vggdist.models.model import Model
from vggdist.models.spec import ModelSpec
from vggdist.training.pretrained import Pretrained, load

NAMES = tuple(f"class {number}" for number in range(7))


def images(size: int) -> mx.nd.NDArray:
    return mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, size, size)))


@functools.cache
def zoo_network(name: str, size: int) -> mx.gluon.HybridBlock:
    """A zoo network in which no parameter has its initial value."""
    network = getattr(vision, name)(classes=len(NAMES))
    network.collect_params().setattr("grad_req", "null")
    network.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    network(images(size))
    random = np.random.default_rng(1)
    for key, parameter in network.collect_params().items():
        if not key.endswith("weight"):
            low, high = (0.5, 1.5) if key.endswith(("gamma", "running_var")) else (-0.5, 0.5)
            parameter.set_data(mx.nd.array(random.uniform(low, high, parameter.shape)))
        elif "dense" in key:  # with the zoo's initialiser (std 0.01) the biases would dominate the features
            parameter.set_data(parameter.data() * (0.01**-1) * np.sqrt(2 / parameter.shape[1]))
    return network


@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [("vgg16", 64, "save"), ("vgg11_bn", 32, "save"), ("vgg11_bn", 32, "export"), ("vgg11_bn", 32, "unordered")],
)
def test_a_file_of_the_zoo_gives_the_same_scores_however_its_parameters_are_named(
    name: str, size: int, kind: str, tmp_path: Path
) -> None:
    zoo, path = zoo_network(name, size), tmp_path / "zoo-0000.params"
    expected = zoo(images(size)).asnumpy()
    if kind == "export":
        zoo.hybridize()
        zoo(images(size)).wait_to_read()
        zoo.export(str(tmp_path / "zoo"))
    else:
        zoo.save_parameters(str(path))
    if kind == "unordered":
        arrays = mx.nd.load(str(path))
        mx.nd.save(str(path), {key: arrays[key] for key in sorted(arrays, reverse=True)})
    plain: Any = name.removesuffix("_bn")
    architecture = ModelConfig(name=plain, batch_norm=name.endswith("_bn"), initializer="xavier")
    spec = ModelSpec(architecture, NAMES, channels=3, image_size=size, resize=size, mean=(0.5,) * 3, std=(0.25,) * 3)
    model = Model(spec, mx.cpu(), seed=3)
    model.network(images(size)).wait_to_read()  # converts the weights to oneDNN's layout
    loaded = load(Pretrained(str(path), spec.mean, spec.std), model, World())
    assert len(loaded) == int(name[3:5])
    assert np.ptp(expected[0] - expected[1]) > 0.03, "the scores must depend on the image"
    np.testing.assert_allclose(model.network(images(size)).asnumpy(), expected, rtol=1e-5, atol=1e-5)
