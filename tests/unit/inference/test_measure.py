"""Every image is scored once, and those with the least probable true class come first."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from scipy.special import softmax

from tests.images import noise
from tests.states import MODEL
from vggdist.collectives.world import World
from vggdist.config.images import ReadingConfig
from vggdist.config.schema import ModelConfig
from vggdist.data.arrays import ArraySource
from vggdist.data.augment import EvaluationView
from vggdist.inference.evaluation import Predictions, as_csv, measure, per_class
from vggdist.models.model import Model

NAMES = ("round", "square")


def test_predictions_are_those_of_each_image_by_itself() -> None:
    model = Model(replace(MODEL, architecture=ModelConfig(name="custom", stages=((1, 4),), hidden=())), mx.cpu(), seed=1)
    source = ArraySource(noise(11, 8, 8, 1), np.arange(11, dtype=np.int32) % 2, NAMES)
    sums, found = measure(model, EvaluationView(source, 8, 8), World(), 4, ReadingConfig())
    expected = softmax(model.forward(mx.nd.array(source.images, dtype="uint8")).asnumpy().astype(np.float64), axis=1)
    np.testing.assert_array_equal(found.predicted, expected.argmax(axis=1))
    np.testing.assert_allclose(found.probability, expected.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.probability_of_true, expected[np.arange(11), source.labels], atol=1e-6)
    assert sums.result()["top1"] == pytest.approx(100 * np.mean(found.predicted == source.labels))


def test_the_worst_come_first_and_have_their_names() -> None:
    images = noise(4, 2, 2, 1)
    source = ArraySource(images, np.array([0, 1, 1, 0], np.int32), NAMES, name=lambda index: f"/a, b/{index}.png")
    found = Predictions(
        np.array([0, 0, 1, 0], np.int32), np.array([0.9, 0.8, 0.6, math.nan]), np.array([0.9, 0.2, 0.6, math.nan])
    )
    rows = list(csv.reader(as_csv(source, found).splitlines()))
    assert rows[0] == ["image", "true", "predicted", "probability", "probability_of_true"]
    assert [row[0] for row in rows[1:]] == ["/a, b/3.png", "/a, b/1.png", "/a, b/2.png", "/a, b/0.png"]
    assert rows[2][1:] == ["square", "round", "0.8", "0.2"]


def test_recall_and_precision_of_each_class() -> None:
    found = per_class(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert found["a"] == {"images": 4, "accuracy(%)": 75.0, "precision(%)": 100.0}
    assert found["b"]["precision(%)"] == pytest.approx(200 / 3)
    assert found["c"]["images"] == 0 and math.isnan(found["c"]["accuracy(%)"])
