"""The graph of a step computes the gradients of the last layers first."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import pytest

from vggdist.collectives.world import World
from vggdist.config.load import load
from vggdist.config.schema import ModelConfig
from vggdist.models.model import Model
from vggdist.models.spec import ModelSpec
from vggdist.training.setup import prepare
from vggdist.training.step import Objective

MATRICES = ModelConfig(name="custom", stages=((1, 8), (1, 256), (1, 256)), batch_norm=True, hidden=(4,))


def test_the_graph_names_the_weights_of_the_last_layer_first() -> None:
    """By default MXNet would compute the gradient of a convolution that is a matrix product last."""
    spec = ModelSpec(MATRICES, ("a", "b"), channels=3, image_size=8, resize=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    objective = Objective(Model(spec, mx.cpu(), seed=0, onednn="float32", samples=64), 0, None)
    outputs = objective(*map(mx.sym.var, ("images", "labels", "partners", "weights", "mask")))
    weights = [name for name in mx.sym.Group(list(outputs)).list_arguments() if name.endswith("_weight")]
    layers = ("output", "hidden1", "stage3_conv1", "stage2_conv1", "stage1_conv1")
    assert weights == [f"vgg_{layer}_weight" for layer in layers]


@pytest.mark.parametrize(
    ("cap", "environment", "released"),
    [("0", {}, True), (".inf", {}, False), ("0", {"MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD": "3"}, False)],
)
def test_each_gradient_is_released_when_it_is_there_if_it_can_then_travel(
    cap: str, environment: dict[str, str], released: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    world = World()
    monkeypatch.setattr(world, "size", 2)
    monkeypatch.setattr(world, "sum", lambda values: values)
    monkeypatch.setattr(world, "gather", lambda value: [value, value])
    monkeypatch.setattr(world, "broadcast", lambda values, root=0: values)
    training = prepare(load("train", ["--train.bucket_cap_mb", cap]), world)
    assert (("backward_bulk_size", 1) in training.step._objective._flags) is released
