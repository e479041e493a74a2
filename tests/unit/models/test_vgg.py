"""Properties of the built network."""

import dataclasses
import json
import math
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from vggdist.config.schema import ModelConfig
from vggdist.models.layers import describe
from vggdist.models.vgg import VGG, build_vgg

SMALL = ModelConfig(name="custom", stages=((1, 8), (2, 12)), hidden=(16,))
CONFIGURATIONS = {
    "vgg11": (ModelConfig(name="vgg11", width_divisor=16, hidden=(32, 24)), 3, 32),
    "batch_norm": (ModelConfig(name="vgg13", batch_norm=True, width_divisor=16, hidden=(32,)), 3, 32),
    "padding_0": (ModelConfig(name="custom", stages=((2, 6), (1, 9)), padding=0, hidden=(16,)), 3, 17),
    "global_average": (ModelConfig(name="vgg16", head="global_average", width_divisor=32, hidden=(8,)), 3, 40),
    "grey": (ModelConfig(name="custom", stages=((1, 8), (2, 12)), hidden=(16,), dropout=0), 1, 8),
    "global_max": (ModelConfig(name="vgg11", head="global_max", width_divisor=32, hidden=(8,), activation="gelu"), 3, 40),
    "early_pooling": (ModelConfig(name="vgg13", early_pooling=True, batch_norm=True, width_divisor=32, hidden=()), 3, 39),
    "widths": (ModelConfig(name="custom", widths=((4, 6), (8,)), padding=0, early_pooling=True, hidden=()), 3, 14),
    "whitening": (ModelConfig(name="custom", stages=((2, 8),), batch_norm=True, whitening=True, hidden=()), 3, 8),
    "no_hidden": (ModelConfig(name="vgg19", width_divisor=32, hidden=(), initializer="xavier"), 3, 33),
}


def build(model: ModelConfig, channels: int = 3, size: int = 8, seed: int = 1) -> VGG:
    return build_vgg(model, channels=channels, image_size=size, num_classes=10, seed=seed)


def images(count: int, channels: int = 3, size: int = 8) -> mx.nd.NDArray:
    return mx.nd.array(np.random.default_rng(0).normal(size=(count, channels, size, size)))


def values(network: VGG) -> dict[str, np.ndarray]:
    return {name: parameter.data().asnumpy() for name, parameter in network.collect_params().items()}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_every_block_has_the_shape_and_parameters_that_describe_states(case: str) -> None:
    model, channels, size = CONFIGURATIONS[case]
    network = build(model, channels, size)
    layers = describe(model, channels=channels, image_size=size, num_classes=10)
    assert len(network) == len(layers)
    x = images(2, channels, size)
    for layer, block in zip(layers, network):
        x = block(x)
        trainable = [p for p in block.collect_params().values() if p.grad_req != "null"]
        assert x.shape == (2, *layer.output_shape), layer.name
        assert sum(int(np.prod(p.shape)) for p in trainable) == layer.trained, layer.name
    assert x.shape == (2, 10)


def test_parameter_names_say_where_they_are_and_do_not_depend_on_earlier_networks() -> None:
    model = ModelConfig(name="custom", stages=((1, 4),), batch_norm=True, hidden=(4,))
    expected = [
        "vgg_stage1_conv1_weight",
        "vgg_stage1_conv1_norm_gamma",
        "vgg_stage1_conv1_norm_beta",
        "vgg_stage1_conv1_norm_running_mean",
        "vgg_stage1_conv1_norm_running_var",
        "vgg_hidden1_weight",
        "vgg_hidden1_bias",
        "vgg_output_weight",
        "vgg_output_bias",
    ]
    assert [list(build(model).collect_params()) for _ in range(2)] == [expected, expected]


def test_a_seed_gives_the_same_parameters_whatever_was_drawn_before() -> None:
    first = values(build(SMALL, seed=5))
    mx.nd.random.normal(shape=(7,)).wait_to_read()
    np.random.seed(99)
    second, other = values(build(SMALL, seed=5)), values(build(SMALL, seed=6))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["vgg_output_weight"], other["vgg_output_weight"])


@pytest.mark.parametrize(
    ("model", "variance", "bound"),
    [
        (ModelConfig(name="custom", stages=((1, 64),), hidden=(512,), batch_norm=True), 2 / 1024, np.inf),
        (
            ModelConfig(name="custom", stages=((1, 64),), hidden=(512,), initializer="xavier", magnitude=2.0),
            2 / (3 * 768),
            np.sqrt(2 / 768),
        ),
    ],
)
def test_weights_start_with_the_stated_variance_and_everything_else_at_zero_or_one(
    model: ModelConfig, variance: float, bound: float
) -> None:
    start = values(build(model))
    weight = start["vgg_hidden1_weight"]  # (512, 64 * 4 * 4): fan_in 1024, fan_avg 768
    assert weight.var() == pytest.approx(variance, rel=0.02)
    assert np.abs(weight).max() <= bound
    for name, value in start.items():
        if not name.endswith("_weight"):
            assert np.all(value == name.endswith(("gamma", "running_var"))), name


def test_dropout_acts_in_training_mode_only() -> None:
    network, x = build(SMALL), images(4)
    twice = [network(x).asnumpy() for _ in range(2)]
    with mx.autograd.record():
        trained = [network(x).asnumpy() for _ in range(2)]
    assert np.array_equal(*twice)
    assert not np.array_equal(*trained)


def test_without_dropout_training_and_inference_compute_the_same() -> None:
    network, x = build(CONFIGURATIONS["grey"][0], channels=1), images(4, channels=1)
    with mx.autograd.record():
        trained = network(x)
    np.testing.assert_allclose(trained.asnumpy(), network(x).asnumpy(), rtol=1e-5, atol=1e-6)


def test_another_batch_size_gives_the_same_scores_for_the_same_image() -> None:
    network, x = build(SMALL), images(5)
    whole = network(x).asnumpy()
    parts = [network(x[:3]).asnumpy(), network(x[3:]).asnumpy()]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)


def test_every_trainable_parameter_gets_a_gradient() -> None:
    network = build(ModelConfig(name="custom", stages=((1, 8), (2, 12)), hidden=(16,), batch_norm=True, dropout=0))
    with mx.autograd.record():
        loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()(network(images(8)), mx.nd.arange(8)).mean()
    loss.backward()
    for name, parameter in network.collect_params().items():
        assert parameter.grad_req == "null" or np.abs(parameter.grad().asnumpy()).max() > 0, name


@pytest.mark.parametrize(
    ("stages", "size", "head"),
    [
        (((1, 4),), 8, "global_max"),
        (((1, 8), (1, 8), (1, 8)), 8, "flatten"),
        (((1, 2), (1, 2)), 6, "flatten"),
        (((1, 32), (1, 64)), 24, "global_average"),
    ],
)
def test_gradients_before_a_pooling_of_few_channels_are_those_of_the_loss(stages: Any, size: int, head: Any) -> None:
    """Batch normalisation and ReLU as one operation (``BatchNormReLU``) fail here, or their gradients are wrong."""
    model = ModelConfig(name="custom", stages=stages, head=head, batch_norm=True, hidden=())
    network = build_vgg(model, channels=3, image_size=size, num_classes=5, seed=1, onednn="float32", samples=16)
    x, weights = images(16, size=size), mx.nd.array(np.random.default_rng(1).normal(size=(16, 5)))

    def loss() -> Any:
        return (network(x) * weights).sum()

    with mx.autograd.record():
        recorded = loss()
    recorded.backward()
    beta = [*network.collect_params(".*_beta").values()][-1]
    start, direction = beta.data().asnumpy(), np.random.default_rng(2).normal(size=beta.shape)
    losses = []
    for step in (-1e-3, 1e-3):
        beta.set_data(mx.nd.array(start + step * direction))
        with mx.autograd.train_mode():
            losses.append(float(loss().asscalar()))
    expected = float((beta.grad().asnumpy() * direction).sum())
    assert (losses[1] - losses[0]) / 2e-3 == pytest.approx(expected, rel=0.02, abs=0.02)


def test_dropout_draws_from_the_generators_that_are_seeded_on_a_gpu_too() -> None:
    """cuDNN's dropout, MXNet's default on a GPU, cannot be seeded."""
    symbol = build(ModelConfig(name="custom", stages=((1, 4),), hidden=(8, 8)))(mx.sym.var("images"))
    dropouts = [node for node in json.loads(symbol.tojson())["nodes"] if node["op"] == "Dropout"]
    assert [node["attrs"]["cudnn_off"] for node in dropouts] == ["True", "True"]


def test_batch_normalisation_uses_the_momentum_of_the_configuration() -> None:
    model = ModelConfig(name="custom", stages=((1, 4),), batch_norm=True, norm_momentum=0.25, hidden=())
    for onednn in (None, "float32"):
        network = build_vgg(model, channels=3, image_size=8, num_classes=10, seed=1, onednn=onednn)
        block, x = network[0], images(5)
        features = block[0](x).asnumpy()
        mean, variance = features.mean(axis=(0, 2, 3)), features.var(axis=(0, 2, 3))
        with mx.autograd.record():
            y = block(x)
        y.backward()
        mx.nd.waitall()  # oneDNN updates the moving averages in the backward pass, unknown to the engine
        column = (1, 4, 1, 1)
        expected = np.maximum(0, (features - mean.reshape(column)) / np.sqrt(variance.reshape(column) + 1e-5))
        np.testing.assert_allclose(y.asnumpy(), expected, atol=1e-5)
        found = {name.rsplit("norm_")[-1]: value for name, value in values(network).items()}
        np.testing.assert_allclose(found["running_mean"], 0.75 * mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["running_var"], 0.25 + 0.75 * variance, rtol=0.01)


@pytest.mark.parametrize("onednn", [None, "float32"])
def test_early_pooling_comes_before_normalisation_and_activation(onednn: str | None) -> None:
    model = ModelConfig(
        name="custom", widths=((4, 6), (5,)), batch_norm=True, early_pooling=True, head="global_max", hidden=()
    )
    network = build_vgg(model, channels=3, image_size=8, num_classes=10, seed=1, onednn=onednn)
    first, last, x = network[0], network[1], images(5)
    with mx.autograd.train_mode():
        y = last(first(x)).asnumpy()
        pooled = mx.nd.Pooling(last[0](first(x)), kernel=(2, 2), stride=(2, 2), pool_type="max").asnumpy()
    axes = (0, 2, 3)
    normalised = (pooled - pooled.mean(axes, keepdims=True)) / np.sqrt(pooled.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, np.maximum(0, normalised), atol=1e-4)
    assert network[2](mx.nd.array(y)).shape == (5, 5, 4, 4)  # the head pools the last stage
    np.testing.assert_array_equal(network[3](mx.nd.array(y)).asnumpy(), y.max(axis=(2, 3)))


def test_gelu_is_the_exact_one() -> None:
    model = ModelConfig(name="custom", stages=((1, 4),), activation="gelu", hidden=())
    network = build(model)
    x = images(2)
    before = network[0][0](x).asnumpy()
    expected = before / 2 * (1 + np.vectorize(math.erf)(before / math.sqrt(2)))
    np.testing.assert_allclose(network[0](x).asnumpy(), expected, atol=1e-5)


@pytest.mark.parametrize("initializer", ["he", "xavier", "dirac"])
def test_the_output_layer_starts_at_its_scale(initializer: Any) -> None:
    model = ModelConfig(name="custom", stages=((1, 4),), initializer=initializer, hidden=(8,))
    plain, scaled = (values(build(dataclasses.replace(model, output_scale=scale))) for scale in (1.0, 0.25))
    for name, weight in plain.items():
        np.testing.assert_array_equal(scaled[name], weight * (0.25 if name == "vgg_output_weight" else 1))


def test_dirac_copies_the_input_channels() -> None:
    model = ModelConfig(name="custom", widths=((4, 6, 3),), initializer="dirac", hidden=())
    network = build(model)
    he = build(dataclasses.replace(model, initializer="he"))
    for index, (inputs, outputs) in enumerate([(3, 4), (4, 6), (6, 3)]):
        convolution, count, x = network[index][0], min(inputs, outputs), images(2, inputs)
        np.testing.assert_array_equal(convolution(x).asnumpy()[:, :count], x.asnumpy()[:, :count])
        others = (block[index][0].weight.data().asnumpy()[count:] for block in (network, he))
        np.testing.assert_array_equal(*others)
