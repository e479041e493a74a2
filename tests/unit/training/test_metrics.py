"""The sums of an evaluation are exact in any order, and the metrics equal those of scikit-learn."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix, f1_score, log_loss, roc_auc_score, top_k_accuracy_score

from vggdist.training.metrics import BINS, EvaluationSums, MovingAverage, losses_and_log_odds


def make_samples(num_samples=997, num_classes=10, seed=0):
    """Logits of a network that is right most of the time, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_samples)
    scores = rng.standard_normal((num_samples, num_classes)) * 2
    scores[np.arange(num_samples), labels] += 2
    return scores.astype(np.float32), labels


def sums_of(scores, labels, mask=None):
    sums = EvaluationSums(scores.shape[1])
    sums.add(scores, labels, np.ones(len(labels), bool) if mask is None else mask)
    return sums


@pytest.mark.parametrize("num_classes", [6, 10, 101])
def test_metrics_equal_those_of_scikit_learn(num_classes):
    scores, labels = make_samples(num_classes=num_classes)
    probabilities, predicted, classes = softmax(scores.astype(float), axis=1), scores.argmax(1), np.arange(num_classes)
    sums = sums_of(scores, labels)
    result = sums.result()
    assert result["top1"] == pytest.approx(100 * np.mean(predicted == labels))
    assert result["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5, labels=classes))
    assert result["loss"] == pytest.approx(log_loss(labels, probabilities, labels=classes), abs=1e-7)
    assert result["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert result["auc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"), abs=1e-3)
    assert (sums.confusion() == confusion_matrix(labels, predicted, labels=classes)).all()


def test_classes_that_do_not_occur_are_left_out_of_the_means():
    scores, labels = make_samples(num_classes=4)
    wider = np.pad(scores, ((0, 0), (0, 3)), constant_values=-50)
    expected, result = sums_of(scores, labels).result(), sums_of(wider, labels).result()
    assert result["macro_f1"] == expected["macro_f1"] and result["auc"] == pytest.approx(expected["auc"], abs=1e-9)


@pytest.mark.parametrize("sizes", [[1] * 997, [128] * 8, [500, 0, 497], [3, 64, 930]])
def test_any_split_adds_up_to_identical_integers(sizes):
    scores, labels = make_samples()
    order = np.random.default_rng(1).permutation(997)
    total, start = np.zeros_like(EvaluationSums(10).as_array()), 0
    for size in sizes:
        part = order[start : start + size]
        total, start = total + sums_of(scores[part], labels[part]).as_array(), start + size
    whole = sums_of(scores, labels)
    assert total.dtype == np.int64 and (total == whole.as_array()).all()
    assert EvaluationSums.from_array(10, total).result() == whole.result()


def test_masked_samples_count_for_nothing_whatever_they_hold():
    scores, labels = make_samples(100)
    padded = np.concatenate([scores, np.full((28, 10), np.nan, np.float32)])
    padded_labels = np.concatenate([labels.astype(np.float32), np.full(28, -1, np.float32)])
    mask = np.arange(128) < 100
    sums = sums_of(padded, padded_labels, mask.astype(np.float32))
    assert (sums.as_array() == sums_of(scores, labels).as_array()).all()


def test_an_empty_evaluation_is_nan_and_not_an_error():
    result = sums_of(np.zeros((4, 3), np.float32), np.zeros(4), mask=np.zeros(4)).result()
    assert len(result) == 5 and all(math.isnan(value) for value in result.values())


def test_equal_scores_go_to_the_lowest_class():
    labels = np.arange(10)
    result = sums_of(np.zeros((10, 10), np.float32), labels).result()
    assert (result["top1"], result["top5"], result["auc"]) == (10.0, 50.0, 0.5)


def test_top5_of_fewer_than_five_classes_is_everything():
    assert sums_of(*make_samples(50, num_classes=3)).result()["top5"] == 100.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_a_miss_and_makes_the_other_metrics_nan(bad):
    scores, labels = make_samples(10)
    scores[np.arange(10), labels] += 20
    scores[3, labels[3]] = bad
    result = sums_of(scores, labels).result()
    assert (result["top1"], result["top5"]) == (90.0, 90.0)
    assert all(math.isnan(result[key]) for key in ("loss", "macro_f1", "auc"))


def test_a_loss_too_large_for_its_integer_becomes_infinite():
    scores = np.array([[3e38, -3e38], [1.0, 0.0]], np.float32)
    result = sums_of(scores, np.array([1, 0])).result()
    assert result["loss"] == math.inf and result["top1"] == 50.0
    large = sums_of(np.array([[6e4, 0.0]] * 100, np.float32), np.ones(100)).result()
    assert large["loss"] == 60000.0


def test_loss_and_log_odds_keep_their_digits_at_the_extremes():
    scores = np.array([[40.0, 0.0, 0.0], [0.5, 0.0, -0.5], [0.0, -700.0, -800.0]])
    losses, odds = losses_and_log_odds(scores, np.array([0, 1, 1]))
    np.testing.assert_allclose(losses, [2 * math.exp(-40), -log_softmax(scores[1])[1], 700.0], rtol=1e-12)
    others = np.array([[np.logaddexp.reduce(np.delete(row, k)) for k in range(3)] for row in scores])
    np.testing.assert_allclose(odds, scores - others, rtol=1e-12)


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="labels from 0 to 10; expected 0 to 9"):
        sums_of(np.zeros((2, 10), np.float32), np.array([0, 10]))


def test_sums_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="3 classes need sums"):
        EvaluationSums.from_array(3, EvaluationSums(4).as_array())


def test_a_thousand_classes_take_the_memory_that_is_estimated():
    sums = sums_of(*make_samples(128, num_classes=1000))
    assert sums.as_array().size == pytest.approx(1000**2 + 2 * BINS * 1000, rel=1e-4)


def test_moving_average_takes_the_first_value_as_it_is_and_then_its_weight():
    average = MovingAverage(0.1)
    assert average.value is None
    assert [average.update(value) for value in (2.0, 1.0, 0.0)] == pytest.approx([2.0, 1.9, 1.71])
    assert average.value == pytest.approx(1.71)
