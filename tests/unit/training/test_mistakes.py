"""The worst mistakes among all ranks' images, each once, the worst first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.images import noise
from tests.states import MODEL
from vggdist.data.augment import Batch
from vggdist.models.spec import ModelSpec
from vggdist.training.mistakes import KEPT, Mistakes

CLASSES = ("a", "b", "c")
SPEC: ModelSpec = replace(MODEL, class_names=CLASSES)


class Ranks:
    """Collectives of several ranks that call one after the other; complete when the last rank has called."""

    def __init__(self, mistakes: list[Mistakes]) -> None:
        self._all = [[candidate[:-1] for candidate in one._worst] for one in mistakes]
        self.given: list[np.ndarray] = []

    def gather(self, value: Any) -> list[Any]:
        return self._all

    def sum(self, values: np.ndarray) -> np.ndarray:
        self.given.append(values)
        return np.sum(self.given, axis=0)


def batch(samples: np.ndarray, labels: np.ndarray, images: np.ndarray, mask: np.ndarray | None = None) -> Batch:
    ones = np.ones(len(labels), np.float32)
    return Batch(images, labels, labels, ones, ones if mask is None else mask, samples)


def scores_of(labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    scores = np.zeros((len(labels), len(CLASSES)), np.float32)
    scores[np.arange(len(labels)), predicted] = confidence
    return scores


def found_by(ranks: int, batch_size: int = 7, samples: int = 60) -> list[Any]:
    rng = np.random.default_rng(1)
    images, labels, predicted = noise(samples, 8, 8, 1), rng.integers(0, 3, samples), rng.integers(0, 3, samples)
    scores = scores_of(labels, predicted, rng.uniform(1, 9, samples).astype(np.float32))
    found = [Mistakes() for _ in range(ranks)]
    for number, start in enumerate(range(0, samples, batch_size)):
        part = np.arange(start, min(start + batch_size, samples))
        found[number % ranks].add(batch(part, labels[part], images[part]), scores[part])
    world: Any = Ranks(found)
    last = [one.of_all_ranks(world, SPEC) for one in found][-1]
    return [(one.image.tobytes(), one.true, one.predicted, one.probability) for one in last]


def test_any_number_of_ranks_finds_the_same() -> None:
    assert found_by(1) == found_by(2) == found_by(5) and len(found_by(1)) == KEPT


def test_the_worst_come_first_and_what_is_right_or_fills_up_is_left_out() -> None:
    labels, predicted = np.array([0, 0, 1, 2, 0]), np.array([1, 1, 1, 0, 2])
    images = noise(5, 8, 8, 1)
    mask = np.array([1, 1, 1, 1, 0], np.float32)
    found = Mistakes()
    found.add(batch(np.arange(5), labels, images, mask), scores_of(labels, predicted, np.array([1.0, 3.0, 9.0, 2.0, 9.0])))
    world: Any = Ranks([found])
    worst = found.of_all_ranks(world, SPEC)
    assert [(one.true, one.predicted) for one in worst] == [("a", "b"), ("c", "a"), ("a", "b")]
    np.testing.assert_array_equal(worst[0].image, images[1])
    assert worst[0].probability > worst[1].probability > worst[2].probability


def test_of_several_crops_or_views_the_first_is_shown() -> None:
    images, labels = noise(6, 8, 8, 1), np.array([0, 1])
    found = Mistakes()
    found.add(batch(np.arange(2), labels, images), scores_of(labels, np.array([0, 2]), np.array([5.0, 5.0])))
    world: Any = Ranks([found])
    (worst,) = found.of_all_ranks(world, SPEC)
    np.testing.assert_array_equal(worst.image, images[3])


def test_scores_that_are_not_finite_are_worst_of_all() -> None:
    images, labels = noise(2, 8, 8, 1), np.array([1, 1])
    scores = np.array([[9.0, 0, 0], [np.nan, 0, 0]], np.float32)
    found = Mistakes()
    found.add(batch(np.arange(2), labels, images), scores)
    world: Any = Ranks([found])
    np.testing.assert_array_equal(found.of_all_ranks(world, SPEC)[0].image, images[1])


def test_a_network_that_is_always_right_has_none() -> None:
    found, labels = Mistakes(), np.array([0, 1])
    found.add(batch(np.arange(2), labels, noise(2, 8, 8, 1)), scores_of(labels, labels, np.ones(2)))
    world: Any = Ranks([found])
    assert found.of_all_ranks(world, SPEC) == []


def test_large_images_are_scaled_down_to_what_is_shown() -> None:
    found, labels = Mistakes(), np.array([0])
    found.add(batch(np.arange(1), labels, noise(1, 224, 224, 3)), scores_of(labels, np.array([1]), np.ones(1)))
    world: Any = Ranks([found])
    spec = replace(SPEC, channels=3, image_size=224, resize=224, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert found.of_all_ranks(world, spec)[0].image.shape == (128, 128, 3)
