"""Claims about parameters that come from Gluon's model zoo. Nothing is downloaded: the zoo's networks get random values."""

import hashlib
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

from vggdist.config.errors import RequestError
from vggdist.config.schema import ModelConfig
from vggdist.models.vgg import VGG, build_vgg
from vggdist.models.weights import copy_zoo_parameters, load_zoo_file

CLASSES = 7


def images(size: int) -> mx.nd.NDArray:
    return mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, size, size)))


def zoo_network(name: str, size: int) -> mx.gluon.HybridBlock:
    """A zoo network in which no parameter has the value that an initialiser would give it."""
    network = getattr(vision, name)(classes=CLASSES)
    network.collect_params().setattr("grad_req", "null")
    network.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    network(images(size))
    random = np.random.default_rng(1)
    for key, parameter in network.collect_params().items():
        if not key.endswith("weight"):
            low, high = (0.5, 1.5) if key.endswith(("gamma", "running_var")) else (-0.5, 0.5)
            parameter.set_data(mx.nd.array(random.uniform(low, high, parameter.shape)))
        elif "dense" in key:  # The zoo's own initialiser (std 0.01) would hide the features behind the biases.
            parameter.set_data(parameter.data() * (0.01**-1) * np.sqrt(2 / parameter.shape[1]))
    return network


def our_network(size: int, name: Any = "vgg11", batch_norm: bool = True, seed: int = 3) -> VGG:
    model = ModelConfig(name=name, batch_norm=batch_norm, initializer="xavier")  # Drawn faster than a normal one.
    return build_vgg(model, channels=3, image_size=size, num_classes=CLASSES, seed=seed)


def assert_same_scores(ours: VGG, zoo: mx.gluon.HybridBlock, size: int) -> None:
    expected = zoo(images(size)).asnumpy()
    assert np.ptp(expected[0] - expected[1]) > 0.03, "the scores must depend on the image"
    np.testing.assert_allclose(ours(images(size)).asnumpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def zoo() -> mx.gluon.HybridBlock:
    return zoo_network("vgg11_bn", 32)


@pytest.fixture(scope="module")
def ours() -> VGG:
    return our_network(32)


def test_a_zoo_vgg16_at_224_pixels_gives_the_same_scores() -> None:
    zoo, ours = zoo_network("vgg16", 224), our_network(224, "vgg16", batch_norm=False)
    copy_zoo_parameters(ours, zoo)
    assert_same_scores(ours, zoo, 224)


def test_a_zoo_vgg11_bn_gives_the_same_scores_although_its_convolutions_have_biases(zoo: mx.gluon.HybridBlock) -> None:
    biases = [p.data() for name, p in zoo.collect_params().items() if name.endswith("bias") and "conv" in name]
    assert len(biases) == 8 and all(bias.abs().max().asscalar() > 0.1 for bias in biases)
    ours = our_network(32)
    ours(images(32)).wait_to_read()  # Leaves the weights in oneDNN's layout.
    copy_zoo_parameters(ours, zoo)
    assert_same_scores(ours, zoo, 32)


@pytest.mark.parametrize("kind", ["save_parameters", "export", "unordered"])
def test_a_file_gives_the_same_scores_however_its_parameters_are_named(
    kind: str, zoo: mx.gluon.HybridBlock, ours: VGG, tmp_path: Path
) -> None:
    path = tmp_path / "zoo-0000.params"
    if kind == "export":
        zoo.hybridize()
        zoo(images(32)).wait_to_read()
        zoo.export(str(tmp_path / "zoo"))
    else:
        zoo.save_parameters(str(path))
    if kind == "unordered":
        arrays = mx.nd.load(str(path))
        mx.nd.save(str(path), {name: arrays[name] for name in sorted(arrays, reverse=True)})
    load_zoo_file(ours, path)
    assert_same_scores(ours, zoo, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("vgg0_conv3_weight", None), r"vgg_stage3_conv2_weight .* does not fit zoo parameter vgg0_batchnorm3_gamma"),
        (("vgg0_conv3_weight", (256, 256, 5, 5)), r"vgg_stage3_conv2_weight \(256, 256, 3, 3\) .*conv3_weight \(256, .* 5\)"),
        (("vgg0_dense2_bias", None), r"no value for vgg_output_bias \(7,\)"),
        (("vgg0_dense3_bias", (7,)), r"vgg0_dense3_bias \(7,\) has no place"),
        (("vgg0_batchnorm2_running_mean", (3,)), r"vgg_stage3_conv1_norm_gamma .* does not fit zoo parameter \S+conv2_bias"),
        (("vgg0_mask", (3,)), "vgg0_mask is no parameter"),
    ],
)
def test_a_difference_is_refused_naming_the_first_parameter_and_nothing_is_copied(
    change: tuple[str, tuple[int, ...] | None], message: str, zoo: mx.gluon.HybridBlock, ours: VGG
) -> None:
    prefix = zoo.prefix
    arrays = {name.replace(prefix, "vgg0_"): parameter.data() for name, parameter in zoo.collect_params().items()}
    name, shape = change
    if shape is None:
        del arrays[name]
    else:
        arrays[name] = mx.nd.zeros(shape)
    before = {key: parameter.data().asnumpy() for key, parameter in ours.collect_params().items() if "conv" in key}
    with pytest.raises(RequestError, match=message):
        copy_zoo_parameters(ours, arrays)
    assert all(np.array_equal(ours.collect_params()[key].data().asnumpy(), value) for key, value in before.items())


def test_a_network_without_batch_norm_refuses_a_zoo_network_with_it(zoo: mx.gluon.HybridBlock) -> None:
    with pytest.raises(RequestError, match=r"vgg_stage1_conv1_bias \(64,\) .*model\.batch_norm"):
        copy_zoo_parameters(our_network(32, batch_norm=False), zoo)


@pytest.mark.parametrize("content", [None, b"", b"not parameters at all", "truncated", "list", "wrong hash"])
def test_a_file_that_cannot_be_used_is_refused_by_name(content: bytes | str | None, ours: VGG, tmp_path: Path) -> None:
    path = tmp_path / "vgg11_bn-0123abcd.params"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        mx.nd.save(str(path), [mx.nd.ones((64,))] if content == "list" else {"features.0.bias": mx.nd.ones((64,))})
        if content == "truncated":
            path.write_bytes(path.read_bytes()[:100])
    if content not in (None, "wrong hash"):
        sha1 = hashlib.sha1(path.read_bytes()).hexdigest()
        path = path.rename(tmp_path / f"vgg11_bn-{sha1[:8]}.params")
    with pytest.raises(RequestError, match=path.name) as refusal:
        load_zoo_file(ours, path)
    assert ("SHA-1" in str(refusal.value)) == (content == "wrong hash")
