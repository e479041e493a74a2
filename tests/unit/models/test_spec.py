"""A checkpoint's description of its network is restored exactly, and refused if it is invalid."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.states import MODEL
from vggdist.config.errors import RequestError
from vggdist.config.schema import ModelConfig
from vggdist.models.spec import ModelSpec

CUSTOM = replace(MODEL, architecture=ModelConfig(name="custom", stages=((1, 8), (2, 16)), hidden=(), batch_norm=True))


@pytest.mark.parametrize("spec", [MODEL, CUSTOM], ids=["vgg11", "custom"])
def test_json_and_back(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


def test_a_withdrawn_setting_with_the_value_that_holds_now_is_read() -> None:
    values = MODEL.as_json()
    values["architecture"]["norm_epsilon"] = 1e-5
    assert ModelSpec.from_json(values) == MODEL


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_names": []}, r"class_names is \[\]; expected at least one"),
        ({"image_size": 9}, "resize is 8; expected image_size to"),
        ({"image_size": 0}, "image_size is 0; expected 1 to"),
        ({"mean": [0.5, 0.5]}, r"mean is \[0.5, 0.5\]; expected a number for each channel"),
        ({"std": [0.0]}, r"std is \[0.0\]; expected positive"),
        ({"channels": 2}, "model.channels: Input should be 1 or 3"),
        ({"image_size": "8"}, "model.image_size: Input should be a valid integer"),
        ({"architecture": {"name": "resnet"}}, "model.architecture.name: Input should be 'vgg11'"),
        ({"architecture": {"name": "vgg16", "groups": 2}}, "model.groups is unknown to this version of vggdist"),
        ({"architecture": {"norm_epsilon": 0.1}}, "model.norm_epsilon is unknown to this version of vggdist"),
        ({"architecture": {"name": "custom"}}, "model.architecture: model.stages is null; expected a table"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ModelSpec.from_json({**MODEL.as_json(), **values})


def test_the_first_difference_is_named_and_what_serves_training_alone_is_none() -> None:
    assert replace(MODEL, std=(0.5,)).difference(MODEL) == "the checkpoint's std is [0.25], this run's is [0.5]"
    wider = replace(MODEL, architecture=ModelConfig(name="vgg13"))
    assert wider.difference(MODEL) == "the checkpoint's model.name is 'vgg11', this run's is 'vgg13'"
    assert replace(MODEL, resize=9, architecture=ModelConfig(dropout=0.1)).difference(MODEL) is None
