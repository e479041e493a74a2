"""A network at chance level is distinguished from one that has started to learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vggdist.reporting.chance_level import advice, is_at_chance


def predicting(one: int, counts: list[int]) -> np.ndarray:
    """The confusion matrix of a network that always predicts one class."""
    matrix = np.zeros((len(counts), len(counts)), int)
    matrix[:, one] = counts
    return matrix


@pytest.mark.parametrize("loss", [math.log(10), 2.27, 2.35])
def test_one_class_predicted_with_the_loss_of_equal_guesses_is_chance(loss: float) -> None:
    assert is_at_chance(predicting(3, [36] * 10), loss)


@pytest.mark.parametrize("loss", [2.0, 3.0, math.nan, math.inf])
def test_another_loss_is_not_chance(loss: float) -> None:
    assert not is_at_chance(predicting(3, [36] * 10), loss)


def test_one_that_has_begun_to_learn_is_not_at_chance() -> None:
    matrix = predicting(3, [36] * 10)
    matrix[4] = [0, 0, 0, 0, 36, 0, 0, 0, 0, 0]
    assert not is_at_chance(matrix, 2.29)


def test_unequal_classes_are_guessed_by_their_frequencies() -> None:
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert is_at_chance(predicting(0, [900, 100]), entropy)
    assert not is_at_chance(predicting(0, [900, 100]), 0.9 * entropy)


@pytest.mark.parametrize("counts", [[50], [50, 0, 0], [0, 0]])
def test_without_two_classes_there_is_nothing_to_guess(counts: list[int]) -> None:
    assert not is_at_chance(predicting(0, counts), 0.0)


def test_the_advice_names_the_settings_and_is_one_line() -> None:
    text = advice(2.3026, 10)
    assert "ln 10 = 2.303" in text and "optimizer.learning_rate" in text and "\n" not in text
