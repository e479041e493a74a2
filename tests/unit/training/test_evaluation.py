"""An image with several crops or views counts once, with the mean of their softmax, on any number of ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.images import MixedSizes, noise
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.config.evaluation import EvaluationConfig
from vggdist.config.images import AugmentConfig, ReadingConfig
from vggdist.config.schema import Config, ModelConfig
from vggdist.data.augment import EvaluationView
from vggdist.data.dataset import load
from vggdist.training.evaluation import evaluate, mean_over_inputs, reserve_memory
from vggdist.training.inputs import make_inputs, model_spec
from vggdist.training.metrics import EvaluationSums

_CLASSES = 7
_SEVERAL = [(5, 1), (10, 1), (1, 2), (1, 6)]
"""Crops and views."""
_WEIGHTS = np.random.default_rng(0).normal(size=(8 * 8 * 3, _CLASSES)).astype(np.float32) / 1000


@dataclass
class OneOfSeveral:
    """A rank whose sums the test adds up."""

    rank: int = 0
    size: int = 1
    sums: list[np.ndarray] = field(default_factory=list)

    def sum(self, array: np.ndarray) -> np.ndarray:
        return array


def _view(inputs: tuple[int, int], samples: int = 23) -> EvaluationView:
    """A view with (crops, views) of each image."""
    images = [noise(10 + number % 5, 14 - number % 3, 3) for number in range(samples)]
    source = MixedSizes(images, np.arange(samples, dtype=np.int32) % _CLASSES)
    return EvaluationView(source, 10, 8, *inputs)


def _scores(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) @ _WEIGHTS


def _evaluated(inputs: tuple[int, int], ranks: int = 1, batch_size: int = 30) -> np.ndarray:
    """The sums over all ranks."""
    shapes = set()

    def forward(images: mx.nd.NDArray) -> mx.nd.NDArray:
        shapes.add(images.shape)
        return mx.nd.array(_scores(images.asnumpy()))

    spec: Any = SimpleNamespace(class_names=tuple("abcdefg"))
    model: Any = SimpleNamespace(spec=spec, forward=forward, device=mx.cpu())
    total: Any = 0
    for rank in range(ranks):
        world: Any = OneOfSeveral(rank, ranks)
        found = evaluate(model, _view(inputs), world, batch_size, ReadingConfig())
        assert found is not None
        total = total + found.sums.as_array()
    count = math.prod(inputs)
    assert shapes == {(max(1, batch_size // count) * count, 8, 8, 3)}  # one shape, for the network's static graph
    return total


@pytest.mark.parametrize("inputs", [(1, 1), *_SEVERAL])
def test_each_sample_counts_once_on_any_number_of_ranks(inputs: tuple[int, int]) -> None:
    one, two, three = (_evaluated(inputs, ranks) for ranks in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    assert one[0] == 23


@pytest.mark.parametrize("inputs", _SEVERAL)
def test_the_softmax_is_averaged_over_crops_and_views(inputs: tuple[int, int]) -> None:
    view, expected = _view(inputs), EvaluationSums(_CLASSES)
    batch = view.batch(np.arange(23), np.ones(23, np.float32))
    mean = softmax(_scores(batch.images).astype(np.float64).reshape(23, math.prod(inputs), _CLASSES), axis=2).mean(axis=1)
    expected.add(np.log(mean), batch.labels, batch.mask)
    result = EvaluationSums.from_array(_CLASSES, _evaluated(inputs)).result()
    assert result == pytest.approx(expected.result(), abs=1e-6)
    centre = EvaluationSums.from_array(_CLASSES, _evaluated((1, 1))).result()
    assert result["loss"] != pytest.approx(centre["loss"], abs=1e-6)


@pytest.mark.parametrize("settings", [{"crops": 5}, {"views": 6}])
def test_the_evaluations_of_a_run_have_its_crops_and_views(settings: dict[str, Any]) -> None:
    measuring = EvaluationConfig(training_set=True, **settings)
    model = ModelConfig(name="custom", stages=((1, 8),))
    config = Config(model=model, augment=AugmentConfig(resize=10), evaluation=measuring)
    data = load(config.data, 0)
    views = make_inputs(config, data, model_spec(config, data, World()), 32, 1).evaluation_views
    assert views.keys() == {"eval", "eval_train"}
    for view in views.values():
        expected = EvaluationView(view.source, 10, 8, **settings).batch(np.arange(3), np.ones(3, np.float32))
        np.testing.assert_array_equal(view.batch(np.arange(3), np.ones(3, np.float32)).images, expected.images)


@pytest.mark.parametrize("inputs", [(10, 1), (1, 6)])
def test_a_batch_smaller_than_the_inputs_of_a_sample_holds_one(inputs: tuple[int, int]) -> None:
    few, many = (EvaluationSums.from_array(_CLASSES, _evaluated(inputs, batch_size=size)).result() for size in (4, 30))
    assert few == pytest.approx(many, abs=1e-6)


def test_equal_inputs_are_as_one() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32) * 50
    repeated, alone = np.repeat(logits, 5, axis=0), log_softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(mean_over_inputs(repeated, 5), alone, atol=1e-12)
    assert mean_over_inputs(logits, 1) is logits


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.filterwarnings("error")
def test_an_input_without_a_finite_score_spoils_its_sample_alone(value: float) -> None:
    logits = np.zeros((10, 3), np.float32)
    logits[2, 1] = value
    mean = mean_over_inputs(logits, 5)
    assert np.isnan(mean[0]).all() and np.allclose(mean[1], -np.log(3))


def test_a_rehearsal_is_one_pass_of_an_evaluation_s_shape() -> None:
    shapes = []

    def forward(images: mx.nd.NDArray) -> mx.nd.NDArray:
        shapes.append((images.shape, images.dtype))
        return images

    reserve_memory(forward, (4, 8, 8, 3), mx.cpu())
    assert shapes == [((4, 8, 8, 3), np.uint8)]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("cudaMalloc retry failed: out of memory", RequestError),
        ("Check failed: e == CUDNN_STATUS_SUCCESS (2 vs. 0) : cuDNN: CUDNN_STATUS_ALLOC_FAILED", RequestError),
        ("no kernel image is available for execution on the device", mx.MXNetError),
    ],
)
def test_a_rehearsal_without_memory_names_the_setting_and_other_errors_stay(message: str, kind: type[Exception]) -> None:
    def forward(images: mx.nd.NDArray) -> mx.nd.NDArray:
        raise mx.MXNetError(message)

    with pytest.raises(kind) as error:
        reserve_memory(forward, (128, 8, 8, 3), mx.cpu())
    if kind is RequestError:
        expected = "an evaluation of 128 images at once does not fit into the memory of cpu(0); lower evaluation.batch_size"
        assert str(error.value) == expected
