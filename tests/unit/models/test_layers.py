"""Arithmetic of the VGG family."""

import subprocess
import sys
from typing import Any

import pytest

from vggdist.config.errors import RequestError
from vggdist.config.schema import ModelConfig
from vggdist.models.layers import STAGES, Layer, describe, parameter_shapes, resolve_stages, smallest_image_size, summary_table


def rows(model: ModelConfig, size: int, channels: int = 3, classes: int = 10) -> list[Layer]:
    return describe(model, channels=channels, image_size=size, num_classes=classes)


@pytest.mark.parametrize(
    ("name", "depth", "millions"), [("vgg11", 11, 133), ("vgg13", 13, 133), ("vgg16", 16, 138), ("vgg19", 19, 144)]
)
def test_depth_and_parameters_are_those_of_the_paper(name: Any, depth: int, millions: int) -> None:
    layers = rows(ModelConfig(name=name), 224, classes=1000)
    assert sum(layer.kind in ("convolution", "dense") for layer in layers) == depth
    assert round(sum(layer.parameters for layer in layers) / 1e6) == millions


def test_vgg16_has_its_published_multiply_adds() -> None:
    # 15.47e9 at 224 pixels: e.g. the GFLOPS (15.47) that torchvision states for vgg16.
    assert sum(layer.flops for layer in rows(ModelConfig(name="vgg16"), 224, classes=1000)) == 2 * 15_470_264_320


def test_a_small_network_counted_by_hand() -> None:
    model = ModelConfig(name="custom", stages=((1, 2),), padding=0, batch_norm=True, hidden=(5,))
    assert rows(model, 6, channels=1, classes=3) == [
        Layer("stage1.conv1", "convolution", (2, 4, 4), parameters=9 * 2 + 2 + 2, flops=2 * 9 * 2 * 16, normalised=True),
        Layer("stage1.pool", "pool", (2, 2, 2)),
        Layer("head", "head", (8,)),
        Layer("hidden1", "dense", (5,), parameters=8 * 5 + 5, flops=2 * 8 * 5),
        Layer("output", "dense", (3,), parameters=5 * 3 + 3, flops=2 * 5 * 3),
    ]


def test_the_width_divisor_divides_every_stage() -> None:
    assert resolve_stages(ModelConfig(name="vgg11", width_divisor=8)) == ((8,), (16,), (32, 32), (64, 64), (64, 64))


def test_a_width_divisor_that_leaves_no_channel_is_refused() -> None:
    with pytest.raises(RequestError, match=r"model\.width_divisor is 65.* at most 64"):
        resolve_stages(ModelConfig(width_divisor=65))


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (ModelConfig(), 8, r"stage4\.pool gets 1x1 .*data\.image_size \(at least 32\), or fewer stages"),
        (ModelConfig(padding=0), 8, r"stage2\.pool gets 1x1 .*\(at least 150\), model\.padding 1, or fewer stages"),
        (ModelConfig(name="custom", stages=((1, 4),), padding=0), 2, r"stage1\.conv1 gets 2x2 .*\(at least 4\)"),
    ],
)
def test_an_image_that_is_too_small_is_refused_naming_block_size_and_remedy(
    model: ModelConfig, size: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        rows(model, size)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("name", STAGES)
def test_the_smallest_image_is_the_smallest_that_is_accepted(name: Any, padding: Any) -> None:
    model = ModelConfig(name=name, padding=padding)
    smallest = smallest_image_size(model)
    features = [layer for layer in rows(model, smallest) if layer.kind == "pool"]
    assert features[-1].output_shape == (512, 1, 1)
    with pytest.raises(RequestError, match="would leave none"):
        rows(model, smallest - 1)


@pytest.mark.parametrize("early", [False, True])
def test_with_the_global_maximum_the_last_stage_has_no_pooling(early: bool) -> None:
    model = ModelConfig(name="custom", stages=((1, 4), (2, 6)), head="global_max", early_pooling=early, hidden=())
    assert smallest_image_size(model) == 2
    assert [layer.output_shape for layer in rows(model, 2)][-4:] == [(6, 1, 1), (6, 1, 1), (6,), (10,)]
    with pytest.raises(RequestError, match="would leave none"):
        rows(model, 1)


def test_a_convolution_that_whitens_has_a_bias_instead_of_batch_normalisation() -> None:
    model = ModelConfig(name="custom", stages=((2, 4),), batch_norm=True, whitening=True, hidden=())
    layers = rows(model, 8)
    assert [(layer.parameters, layer.trained) for layer in layers[:2]] == [(9 * 3 * 4 + 4, 4), (9 * 4 * 4 + 8,) * 2]
    shapes = parameter_shapes(layers, 3)
    assert set(shapes["stage1.conv1"]) == {"weight", "bias"} and "norm_gamma" in shapes["stage1.conv2"]


def test_the_table_is_aligned_and_totals_parameters_flops_and_sent_bytes() -> None:
    model = ModelConfig(name="custom", stages=((1, 64),), hidden=(1024,))
    lines = summary_table(rows(model, 8), {"sent": lambda layer: 2.0 * layer.parameters}).splitlines()
    assert lines[0].split() == ["block", "output", "parameters", "MFLOPs", "sent"]
    assert lines[2].split() == ["stage1.conv1", "64", "x", "8", "x", "8", "1,792", "0.22", "3.50", "KiB"]
    assert lines[-1].split() == ["total", "1,061,642", "2.34", "2.02", "MiB"]
    assert len({len(line) for line in lines}) == 1


def test_the_arithmetic_does_not_import_mxnet() -> None:
    program = "import sys, vggdist.models.layers; sys.exit('mxnet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
