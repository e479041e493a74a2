"""Each optimizer computes what its paper defines, implemented in numpy here."""

import mxnet as mx
import numpy as np
import pytest

from tests.newton_schulz import by_definition
from vggdist.config.errors import RequestError
from vggdist.config.optimizers import OPTIMIZERS
from vggdist.config.schema import OptimizerConfig
from vggdist.training.norms import clip, global_norm, sum_of_squares
from vggdist.training.optimizer import Optimizer

SHAPES = {
    "conv_weight": (4, 3, 3, 3),
    "conv_bias": (4,),
    "normed_weight": (30, 2, 3, 3),
    "normed_norm_gamma": (30,),
    "normed_norm_beta": (30,),
    "fc_weight": (5, 7),
    "vgg_output_weight": (3, 5),
}
WEIGHTS = {name for name in SHAPES if name.endswith("_weight")}
MATRICES = WEIGHTS - {"vgg_output_weight"}
RATES, SCALES = (0.1, 0.03, 0.2, 0.05), (1.0, 0.25, 2.0, 0.5)


def momentum_rule(config, w, g, state, step, rate):
    v = state["momentum"] = config.momentum * state.get("momentum", 0) - rate * g
    return w + (config.momentum * v - rate * g if config.name in ("nag", "muon") else v)


def adam_rule(config, w, g, state, step, rate):
    m = state["mean"] = config.beta1 * state.get("mean", 0) + (1 - config.beta1) * g
    v = state["variance"] = config.beta2 * state.get("variance", 0) + (1 - config.beta2) * g**2
    m, v = m / (1 - config.beta1 ** (step + 1)), v / (1 - config.beta2 ** (step + 1))
    return w - rate * m / (np.sqrt(v) + config.epsilon)


def muon_rule(config, name, w, g, state, step, rate, decay):
    v = state["momentum"] = config.momentum * state.get("momentum", 0) + g
    update = by_definition((g + config.momentum * v).reshape(len(w), -1), config.muon_iterations).reshape(w.shape)
    w = w * np.sqrt(len(w)) / np.linalg.norm(w) if name == "normed_weight" else (1 - rate * decay) * w
    return w - rate * update


def reference(config, name, w, g, state, step, rate):
    """One update in float64 of a parameter with the configuration's weight decay."""
    one_dimensional = not name.endswith("_weight")
    decay = 0 if one_dimensional and not config.decay_all else config.weight_decay
    if config.name == "adamw":
        return adam_rule(config, w, g, state, step, rate) - rate * decay * w
    if config.name == "muon" and name in MATRICES:
        return muon_rule(config, name, w, g, state, step, rate, decay)
    if config.name == "lars" and not one_dimensional:
        norms = np.linalg.norm(w), np.linalg.norm(g)
        rate *= config.lars_trust * norms[0] / (norms[1] + decay * norms[0] + config.epsilon) if all(norms) else 1
    rule = adam_rule if config.name == "adam" else momentum_rule
    return rule(config, w, g + decay * w, state, step, rate)


def make_parameters(values):
    parameters = {name: mx.gluon.Parameter(name, shape=value.shape) for name, value in values.items()}
    for name, parameter in parameters.items():
        parameter.initialize(init=mx.init.Zero())
        parameter.set_data(mx.nd.array(values[name]))
    return parameters


def random_arrays(seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return {name: spread * rng.standard_normal(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize(
    "name, options",
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.0}),
        ("nag", {}),
        ("adam", {}),
        ("adam", {"epsilon": 0.1}),
        ("adamw", {}),
        ("lars", {"lars_trust": 0.02}),
        ("lars", {"lars_trust": 0.02, "momentum": 0.0}),
        ("muon", {}),
        ("muon", {"momentum": 0.6, "muon_iterations": 3}),
    ],
)
def test_equals_plain_numpy_over_steps_of_changing_rate_and_scale(name, options, decay_all):
    config = OptimizerConfig(**{"name": name, "weight_decay": 0.1, "decay_all": decay_all} | options)
    expected, states = random_arrays(0), {key: {} for key in SHAPES}
    parameters = make_parameters(expected)
    optimizer = Optimizer(config, parameters)
    for step, (rate, scale) in enumerate(zip(RATES, SCALES, strict=True)):
        gradients = random_arrays(step + 1)
        optimizer.update({key: mx.nd.array(value) for key, value in gradients.items()}, step, rate, scale)
        for key in SHAPES:
            expected[key] = reference(config, key, expected[key], scale * gradients[key], states[key], step, rate)
    for key, parameter in parameters.items():
        np.testing.assert_allclose(parameter.data().asnumpy(), expected[key], rtol=2e-5, atol=2e-5, err_msg=key)
        for kind, value in states[key].items():
            if f"{key}/{kind}" in optimizer.states:
                np.testing.assert_allclose(optimizer.states[f"{key}/{kind}"].asnumpy(), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("sgd", {"momentum"}),
        ("nag", {"momentum"}),
        ("lars", {"momentum"}),
        ("muon", {"momentum"}),
        ("adam", {"mean", "variance"}),
        ("adamw", {"mean", "variance"}),
    ],
)
def test_states_are_zeros_by_name_before_the_first_step(name, kinds):
    states = Optimizer(OptimizerConfig(name=name), make_parameters(random_arrays(0))).states
    assert set(states) == {f"{key}/{kind}" for key in SHAPES for kind in kinds}
    assert all(state.shape == SHAPES[key.split("/")[0]] and not state.asnumpy().any() for key, state in states.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_that_can_be_asked_for_has_a_rule_and_a_text(name):
    assert callable(getattr(Optimizer, f"_{name}")) and OPTIMIZERS[name].text


def test_sgd_without_momentum_has_no_state():
    assert Optimizer(OptimizerConfig(name="sgd", momentum=0.0), make_parameters(random_arrays(0))).states == {}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_resumed_from_its_states_is_bit_for_bit_the_same_run(name):
    def run(optimizer, steps):
        for step in steps:
            optimizer.update({k: mx.nd.array(g) for k, g in random_arrays(step).items()}, step, RATES[step])

    config = OptimizerConfig(name=name)
    whole = Optimizer(config, make_parameters(random_arrays(9)))
    run(whole, (0, 1))
    resumed = Optimizer(config, make_parameters({k: p.data().asnumpy() for k, p in whole.parameters.items()}))
    for key, state in whole.states.items():
        resumed.states[key][:] = state
    run(whole, (2, 3))
    run(resumed, (2, 3))
    for key, parameter in whole.parameters.items():
        assert (parameter.data().asnumpy() == resumed.parameters[key].data().asnumpy()).all(), key


def test_biases_and_batch_norm_do_not_decay_and_weights_do():
    values = {name: np.ones(shape) for name, shape in SHAPES.items()}
    parameters = make_parameters(values)
    zeros = {name: mx.nd.zeros(shape) for name, shape in SHAPES.items()}
    Optimizer(OptimizerConfig(weight_decay=0.5), parameters).update(zeros, 0, 0.1)
    assert {name for name, p in parameters.items() if (p.data().asnumpy() != 1).any()} == WEIGHTS


def test_muon_changes_the_norm_of_a_weight_only_before_batch_normalisation_and_decays_only_the_others():
    parameters = make_parameters({name: np.full(shape, 3.0) for name, shape in SHAPES.items()})
    zeros = {name: mx.nd.zeros(shape) for name, shape in SHAPES.items()}
    Optimizer(OptimizerConfig(name="muon", weight_decay=0.5), parameters).update(zeros, 0, 0.1)
    found = {name: p.data().asnumpy() for name, p in parameters.items()}
    assert np.linalg.norm(found.pop("normed_weight")) == pytest.approx(np.sqrt(30))
    for name in ("conv_weight", "fc_weight"):
        np.testing.assert_allclose(found.pop(name), 3 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(found.pop("vgg_output_weight"), 3 - 1.9 * 0.1 * 0.5 * 3, rtol=1e-6)  # coupled, as by nag
    assert all((value == 3).all() for value in found.values())


def test_muon_s_momentum_is_of_the_true_gradient_so_a_loss_scale_may_change():
    scaled, plain = (Optimizer(OptimizerConfig(name="muon"), make_parameters(random_arrays(9))) for _ in range(2))
    for step, scale in enumerate((1.0, 2.0**-10, 2.0**3)):
        gradients = random_arrays(step)
        plain.update({key: mx.nd.array(value) for key, value in gradients.items()}, step, 0.1)
        scaled.update({key: mx.nd.array(value / scale) for key, value in gradients.items()}, step, 0.1, scale)
    for key, parameter in plain.parameters.items():
        assert (parameter.data().asnumpy() == scaled.parameters[key].data().asnumpy()).all(), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_has_factors_of_learning_rate_and_weight_decay(name):
    config = {"name": name, "weight_decay": 0.1}
    groups = (("*_gamma", 3.0, 0.5), ("fc_*", 0.0, 1.0), ("normed_weight", 0.0, 0.0), ("conv_weight", 2.0, 0.0))
    factors = {"conv_weight": (0.5 * 2, 0), "normed_norm_gamma": (3, 0.05)}  # of the rate, and the decay itself
    grouped = Optimizer(
        OptimizerConfig(**config, groups=groups, backbone_rate=0.5), make_parameters(random_arrays(0)), ["conv_weight"]
    )
    gradients = {key: mx.nd.array(value) for key, value in random_arrays(1).items()}
    for step in range(2):
        grouped.update(gradients, step, 0.1)
    for key, value in random_arrays(0).items():
        found = grouped.parameters[key].data().asnumpy()
        if key in ("fc_weight", "normed_weight"):
            assert (found == np.float32(value)).all(), key
            continue
        rate, decay = factors.get(key, (1, 0.1 if key in WEIGHTS else 0))
        alone = Optimizer(OptimizerConfig(name=name, weight_decay=decay, decay_all=True), make_parameters({key: value}))
        for step in range(2):
            alone.update(gradients, step, 0.1 * rate)
        np.testing.assert_allclose(found, alone.parameters[key].data().asnumpy(), rtol=1e-6, err_msg=key)


def test_a_group_without_a_parameter_is_refused():
    with pytest.raises(RequestError, match=r"optimizer\.groups: no trained parameter matches 'head_\*'; .* conv_weight"):
        Optimizer(OptimizerConfig(groups=(("head_*", 1.0, 1.0),)), make_parameters(random_arrays(0)))


@pytest.mark.parametrize("weight, gradient", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_lars_moves_by_the_plain_rate_where_a_norm_is_zero(weight, gradient):
    parameters = make_parameters({"fc_weight": np.full((2, 2), weight)})
    config = OptimizerConfig(name="lars", weight_decay=0.0)
    Optimizer(config, parameters).update({"fc_weight": mx.nd.full((2, 2), gradient)}, 0, 0.1)
    np.testing.assert_allclose(parameters["fc_weight"].data().asnumpy(), weight - 0.1 * gradient, rtol=1e-6)


def test_a_missing_gradient_is_named():
    with pytest.raises(KeyError, match="conv_weight"):
        Optimizer(OptimizerConfig(), make_parameters(random_arrays(0))).update({}, 0, 0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_and_clip_never_wait_for_the_device(name, monkeypatch):
    optimizer = Optimizer(OptimizerConfig(name=name), make_parameters(random_arrays(0)))
    gradients = {key: mx.nd.array(value) for key, value in random_arrays(1).items()}

    def wait(*_):
        raise AssertionError("waited for the device")

    for method in ("asnumpy", "asscalar", "wait_to_read"):
        monkeypatch.setattr(mx.nd.NDArray, method, wait)
    clip(gradients, 1.0, scale=0.5)
    optimizer.update(gradients, 0, 0.1, scale=0.5)


def test_global_norm_is_the_norm_of_all_gradients_together():
    values = random_arrays(0)
    expected = np.sqrt(sum((value**2).sum() for value in values.values()))
    norm = global_norm({key: mx.nd.array(value) for key, value in values.items()})
    assert norm.shape == (1,) and norm.asscalar() == pytest.approx(expected, rel=1e-6)


def test_sum_of_squares_is_right_for_millions_of_elements():
    values = mx.nd.random.normal(shape=(1024, 4096))
    assert sum_of_squares(values).asscalar() == pytest.approx((values.asnumpy().astype(float) ** 2).sum(), rel=1e-6)


def test_on_a_gpu_norms_are_not_products_which_are_tf32_there(monkeypatch):
    def product(*_, **__):
        raise AssertionError("a product")

    values = random_arrays(0)
    gradients = {key: mx.nd.array(value) for key, value in values.items()}
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(mx.nd.NDArray, "context", mx.gpu(0))
        on_a_gpu.setattr(mx.nd, "batch_dot", product)
        norm = global_norm(gradients)
    expected = np.sqrt(sum((value**2).sum() for value in values.values()))
    assert norm.shape == (1,) and norm.asscalar() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_clipping_brings_the_true_gradient_to_the_limit_and_keeps_its_direction(scale):
    before = random_arrays(0, spread=100.0)
    gradients = {key: mx.nd.array(value) for key, value in before.items()}
    true_norm = scale * np.sqrt(sum((value**2).sum() for value in before.values()))
    assert clip(gradients, 2.0, scale).asscalar() == pytest.approx(true_norm, rel=1e-6)
    assert scale * global_norm(gradients).asscalar() == pytest.approx(2.0, rel=1e-5)
    for key, value in before.items():
        np.testing.assert_allclose(gradients[key].asnumpy(), value * 2 / true_norm, rtol=1e-5)


def test_clipping_leaves_a_gradient_within_the_limit_as_it_is():
    before = random_arrays(0)
    gradients = {key: mx.nd.array(value) for key, value in before.items()}
    clip(gradients, 1000.0)
    assert all((gradients[key].asnumpy() == np.float32(value)).all() for key, value in before.items())
