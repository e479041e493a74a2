"""Images in memory get the same probabilities as in an evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import vggdist
from tests.images import noise
from tests.states import MODEL
from tests.trained import parameters, store
from vggdist.collectives.world import World
from vggdist.config.images import ReadingConfig
from vggdist.config.schema import ModelConfig
from vggdist.data.arrays import ArraySource
from vggdist.data.augment import EvaluationView
from vggdist.data.decode import convert_channels
from vggdist.inference.evaluation import measure
from vggdist.models.model import Model

SPEC = replace(MODEL, architecture=ModelConfig(name="custom", stages=((1, 4),), hidden=()), resize=9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    store(folder, SPEC)
    return folder


def test_probabilities_are_those_of_an_evaluation(run: Path) -> None:
    found, images = vggdist.load_model(run), noise(150, 12, 10, 1)
    probabilities = found.predict(images)
    source = ArraySource(images, np.zeros(150, np.int32), SPEC.class_names)
    network = Model(SPEC, mx.cpu())
    network.load(parameters(SPEC))
    _, expected = measure(network, EvaluationView(source, 9, 8), World(), 150, ReadingConfig())
    np.testing.assert_allclose(probabilities[:, 0], expected.probability_of_true, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), expected.predicted)
    assert probabilities.dtype == np.float32 and found.class_names == ("round", "square") and found.step == 10


def test_any_sizes_and_channels(run: Path) -> None:
    found = vggdist.load_model(run, 10)
    images = [noise(20, 13, 3), noise(9, 30), noise(8, 8, 1)]
    together = found.predict(images)
    for image, row in zip(images, together, strict=True):
        grey = convert_channels(image[None] if image.ndim == 3 else image[None, ..., None], 1)
        np.testing.assert_allclose(found.predict(grey)[0], row, atol=1e-6)
    assert found.predict([]).shape == (0, 2)
    assert found.network(mx.nd.zeros((2, 1, 8, 8))).shape == (2, 2)


@pytest.mark.parametrize("image", [noise(8, 8).astype(float), noise(8, 8, 4), noise(8), np.zeros((0, 8), np.uint8)])
def test_what_is_no_image_is_named(run: Path, image: Any) -> None:
    with pytest.raises(vggdist.RequestError, match="image 1 is .*; expected uint8"):
        vggdist.load_model(run).predict([noise(8, 8), image])
