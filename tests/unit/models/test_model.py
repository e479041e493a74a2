"""A network loads all parameters of a checkpoint, or none."""

from __future__ import annotations

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

from tests.states import MODEL
from vggdist.config.errors import RequestError
from vggdist.config.schema import ModelConfig
from vggdist.models.model import Model

SPEC = replace(MODEL, architecture=ModelConfig(name="custom", stages=((1, 4),), hidden=(8,), batch_norm=True))
IMAGES = mx.nd.array(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)), dtype="uint8")


def arrays_of(model: Model) -> dict[str, np.ndarray]:
    return {f"parameter/{name}": parameter.data().asnumpy() for name, parameter in model.parameters.items()}


@pytest.mark.parametrize("onednn", [None, "float32"])
def test_it_computes_what_the_network_computed_from_which_the_parameters_are(onednn: str | None) -> None:
    first = Model(SPEC, mx.cpu(), seed=3, onednn="float32", samples=3)
    second = Model(SPEC, mx.cpu(), onednn=onednn)
    expected = first.forward(IMAGES).asnumpy()
    assert expected.shape == (3, 2) and expected.dtype == np.float32 and np.ptp(expected) > 0
    second.forward(IMAGES)
    second.load(arrays_of(first))
    np.testing.assert_allclose(second.forward(IMAGES).asnumpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameter/vgg_output_bias": None}, "the checkpoint has no parameter/vgg_output_bias"),
        ({"parameter/vgg_output_bias": np.zeros(3, np.float32)}, r"vgg_output_bias is float32 \(3,\)"),
        ({"parameter/vgg_output_bias": np.zeros(2)}, r"vgg_output_bias is float64 \(2,\)"),
    ],
)
def test_parameters_of_another_network_are_refused_and_nothing_changes(change: dict, message: str) -> None:
    model = Model(SPEC, mx.cpu(), seed=3)
    before = arrays_of(model)
    stored = {name: array for name, array in {**before, **change}.items() if array is not None}
    with pytest.raises(RequestError, match=message):
        model.load({name: array + 1 for name, array in stored.items()})
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, before[name])
