"""Layers of a file match if they have the same position and shape, from the input on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from vggdist.config.schema import ModelConfig
from vggdist.models.layers import describe, parameter_shapes
from vggdist.weights.layer_matching import Fit, fit
from vggdist.weights.stored_array import StoredArray

# Two stages of one and two convolutions, a hidden layer, seven classes; images of 8 x 8 pixels.
MODEL: dict[str, Any] = {"name": "custom", "stages": ((1, 4), (2, 6)), "hidden": (5,)}


def stored(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, StoredArray]:
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: StoredArray(name, shape, "float32", partial(arrays.__getitem__, name)) for name, shape in shapes.items()}


def fitted(
    arrays: Mapping[str, tuple[int, ...]], same_classes: bool = True, **model: Any
) -> tuple[Fit, dict[str, np.ndarray]]:
    config = ModelConfig(**{**MODEL, **model})
    rows = describe(config, channels=3, image_size=8, num_classes=7)
    found = fit(rows, parameter_shapes(rows, 3), stored(arrays), same_classes)
    return found, found.values(rows)


# Names and order as torchvision's vgg; the numbers of a Sequential count its ReLUs and poolings as well.
TORCH = {
    "features.0.weight": (4, 3, 3, 3),
    "features.0.bias": (4,),
    "features.3.weight": (6, 4, 3, 3),
    "features.3.bias": (6,),
    "features.10.weight": (6, 6, 3, 3),
    "features.10.bias": (6,),
    "classifier.0.weight": (5, 24),
    "classifier.0.bias": (5,),
    "classifier.3.weight": (7, 5),
    "classifier.3.bias": (7,),
}
NORM = {"weight": (1,), "bias": (1,), "running_mean": (1,), "running_var": (1,), "num_batches_tracked": ()}


def with_norm(bias: bool = True) -> dict[str, tuple[int, ...]]:
    found = {name: shape for name, shape in TORCH.items() if bias or not name.startswith("features") or "weight" in name}
    for layer, width in ((0, 4), (3, 6), (10, 6)):
        found |= {f"features.{layer + 1}.{role}": (width,) * len(shape) for role, shape in NORM.items()}
    return found


def test_every_layer_of_torchvision_has_its_place() -> None:
    found, values = fitted(dict(reversed(TORCH.items())))
    arrays = stored(dict(reversed(TORCH.items())))
    assert list(found.taken) == ["stage1.conv1", "stage2.conv1", "stage2.conv2", "hidden1", "output"]
    assert (found.initialized, found.unused, found.difference) == ((), (), None)
    pairs = {"stage1_conv1": "features.0", "stage2_conv1": "features.3", "stage2_conv2": "features.10"}
    pairs |= {"hidden1": "classifier.0", "output": "classifier.3"}
    assert values.keys() == {f"vgg_{name}_{role}" for name in pairs for role in ("weight", "bias")}
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(values[f"vgg_{ours}_weight"], arrays[f"{theirs}.weight"].values())


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_before_a_normalisation_goes_into_its_mean(bias: bool) -> None:
    _, values = fitted(with_norm(bias), batch_norm=True)
    arrays = stored(with_norm(bias))
    expected = arrays["features.4.running_mean"].values() - (arrays["features.3.bias"].values() if bias else 0)
    np.testing.assert_allclose(values["vgg_stage2_conv1_norm_running_mean"], expected)
    np.testing.assert_array_equal(values["vgg_stage2_conv1_norm_gamma"], arrays["features.4.weight"].values())
    assert not [name for name in values if "conv" in name and name.endswith("bias")]


def test_ours_exported_and_timm_s_names() -> None:
    numbers = {"features.0": "stage1_conv1", "features.3": "stage2_conv1", "features.10": "stage2_conv2"}
    exported = {"features.0": "conv0", "features.3": "conv2", "features.10": "conv10"}
    timm = {**TORCH, "pre_logits.fc1.weight": (5, 6, 2, 2), "pre_logits.fc1.bias": (5,)}
    timm |= {"head.fc.weight": (7, 5), "head.fc.bias": (7,)}
    timm = {name: shape for name, shape in timm.items() if not name.startswith("classifier")}
    heads = {"classifier.0": "hidden1", "classifier.3": "output"}
    ours = {f"vgg_{({**numbers, **heads})[name.rsplit('.', 1)[0]]}_{name.rsplit('.', 1)[1]}": s for name, s in TORCH.items()}
    heads = {"classifier.0": "dense0", "classifier.3": "dense1"}
    zoo = {f"vgg0_{({**exported, **heads})[name.rsplit('.', 1)[0]]}_{name.rsplit('.', 1)[1]}": s for name, s in TORCH.items()}
    for arrays in (ours, zoo, timm):
        found, _ = fitted(arrays)
        assert len(found.taken) == 5 and found.difference is None


def test_a_head_of_other_classes_is_initialised() -> None:
    found, values = fitted({**TORCH, "classifier.3.weight": (1000, 5), "classifier.3.bias": (1000,)})
    assert found.initialized == ("output",) and found.unused == ("classifier.3",) and len(found.taken) == 4
    assert found.difference == "classifier.3.weight in the file has the shape (1000, 5), but output has (7, 5)"
    assert not [name for name in values if "output" in name]
    same_number, _ = fitted(TORCH, same_classes=False)
    assert same_number.initialized == ("output",) and same_number.difference == "classifier.3 has other classes"


def test_other_images_or_another_head_take_the_convolutions_alone() -> None:
    found, _ = fitted({**TORCH, "classifier.0.weight": (5, 6 * 49)})
    assert found.initialized == ("hidden1", "output") and found.unused == ("classifier.0", "classifier.3")
    found, _ = fitted(TORCH, hidden=())
    assert found.initialized == ("output",) and found.difference == "the file has another number of fully connected layers"
    found, _ = fitted(TORCH, stages=((1, 4), (3, 6)))
    assert list(found.taken) == ["stage1.conv1", "stage2.conv1", "stage2.conv2"]
    assert found.difference == "the file has another number of convolutions" and found.initialized[0] == "stage2.conv3"


def test_what_stands_behind_the_first_difference_is_not_taken_though_it_fits() -> None:
    found, _ = fitted({**TORCH, "features.3.weight": (6, 4, 5, 5)})
    assert list(found.taken) == ["stage1.conv1"] and found.initialized == ("stage2.conv1", "stage2.conv2", "hidden1", "output")


@pytest.mark.parametrize(
    ("arrays", "model", "message"),
    [
        (
            {**TORCH, "features.0.weight": (8, 3, 3, 3)},
            {},
            r"features.0.weight in the file has the shape \(8, 3, 3, 3\), but stage1.conv1 has",
        ),
        (with_norm(), {}, "features.0 in the file has a batch normalisation, but stage1.conv1 does not"),
        (TORCH, {"batch_norm": True}, "features.0 in the file does not have a batch normalisation, but stage1.conv1 does"),
        ({"w": (3,), "features.0.bias": (4,)}, {}, "it has no convolutions"),
        ({**TORCH, "features.1.running_mean": (4,)}, {}, "3 convolutions and 1 batch normalisations"),
    ],
)
def test_a_file_that_fits_nowhere_is_refused_with_the_first_difference(
    arrays: dict[str, tuple[int, ...]], model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(arrays, **model)
