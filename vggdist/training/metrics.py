"""Metrics of an evaluation from integer sums, and the moving average of the training loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Fixed point of the loss: 2^-24 nats is finer than the float32 logits it comes from. A loss above 2^16 nats counts as
# infinite; so one sample adds at most 2^40, and 2^23 = 8.4 million of the worst samples fit into an int64.
LOSS_UNIT = 2.0**24
LOSS_LIMIT = 2.0**16

# Bins of the log-odds log(p / (1 - p)), in nats; at 30 nats 1 - p is 1e-13.
BINS = 2048
ODDS_LIMIT = 30.0

# Indices of the scalar sums, which precede the confusion matrix and the histograms.
SAMPLES, TOP1, TOP5, LOSS, UNDEFINED, INFINITE, SINGLE_SUMS = range(7)


class EvaluationSums:
    """Sums over the samples of an evaluation, all of them integers.

    Integer addition is associative, so the total over any number of ranks and any split of the samples equals the sums of one
    process bit for bit, and so does every metric computed from them.

    - top-1: the highest score, the lowest class among equals. Top-5: fewer than 5 classes rank before the true one
      (always so for 5 classes or fewer); of equal scores the lower class ranks first.
    - loss: cross-entropy in float64 from the float32 logits, each sample rounded to 2^-24 nats.
    - AUC: one-vs-rest over the log-odds of the softmax probability, from histograms of 2048 equal bins over [-30, 30]
      (the outermost include what lies beyond). A positive and a negative in one bin count half, as ties do; so the error
      is at most half the share of pairs within one bin of 0.03 nats: below 1e-3 unless the scores are concentrated.
    - A sample with a logit that is not finite is counted, is not a hit, and is excluded from the other sums; loss,
      macro_f1 and auc are then nan. A loss above 65,536 nats makes the loss inf.

    Memory: ``K^2 + 4096 K`` int64: 0.3 MB for 10 classes, 41 MB (33 of them histograms) for 1,000.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # One flat array, so that one reduction sums it over the ranks; the others are views into it.
        self._sums = np.zeros(SINGLE_SUMS + num_classes**2 + 2 * num_classes * BINS, np.int64)
        ends = SINGLE_SUMS, SINGLE_SUMS + num_classes**2, SINGLE_SUMS + num_classes**2 + num_classes * BINS
        self._single, self._confusion, self._positives, self._everything = np.split(self._sums, ends)

    @classmethod
    def from_array(cls, num_classes: int, array: NDArray[np.int64]) -> EvaluationSums:
        """Sums from an array that :meth:`as_array` returned, or from the total of several.

        Raises ``ValueError`` on another size or type.
        """
        sums = cls(num_classes)
        expected = sums._sums
        if array.shape != expected.shape or array.dtype != np.int64:
            raise ValueError(f"{num_classes} classes need sums {expected.shape} int64, not {array.shape} {array.dtype}")
        expected[:] = array
        return sums

    def as_array(self) -> NDArray[np.int64]:
        """Copy of all sums, flat int64, to be summed over the ranks."""
        return self._sums.copy()

    def add(self, scores: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any]) -> None:
        """Add a batch: logits ``(B, K) float32``, true classes ``(B,)``, and a mask ``(B,)``, true for samples that count.

        Masked samples may have any values. Raises ``ValueError`` when a counted label is no class.
        """
        mask = np.asarray(mask, bool)
        scores, labels = np.asarray(scores)[mask], np.asarray(labels)[mask].astype(np.int64)
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 0 to {self.num_classes - 1}")
        finite = np.isfinite(scores).all(axis=1)
        self._single[SAMPLES] += len(labels)
        self._single[UNDEFINED] += np.count_nonzero(~finite)
        scores, labels = np.ascontiguousarray(scores[finite], np.float64), labels[finite]
        if labels.size:
            self._add_ranks(scores, labels)
            self._add_probabilities(scores, labels)

    def _add_ranks(self, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        """Add what depends only on the order of the scores: hits and confusion."""
        true = np.take_along_axis(scores, labels[:, None], axis=1)
        lower = np.arange(self.num_classes) < labels[:, None]
        rank = np.count_nonzero((scores > true) | ((scores == true) & lower), axis=1)
        self._single[TOP1] += np.count_nonzero(rank == 0)
        self._single[TOP5] += np.count_nonzero(rank < 5)
        cells = labels * self.num_classes + scores.argmax(axis=1)
        np.add.at(self._confusion, cells, 1)

    def _add_probabilities(self, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        """Add what depends on the softmax: the loss and the histograms of the log-odds."""
        losses, odds = losses_and_log_odds(scores, labels)
        within = losses <= LOSS_LIMIT
        self._single[LOSS] += np.rint(losses[within] * LOSS_UNIT).astype(np.int64).sum()
        self._single[INFINITE] += np.count_nonzero(~within)
        bins = np.clip((odds + ODDS_LIMIT) * (BINS / (2 * ODDS_LIMIT)), 0, BINS - 1).astype(np.int64)
        bins += np.arange(self.num_classes) * BINS
        self._everything += np.bincount(bins.ravel(), minlength=self._everything.size)
        np.add.at(self._positives, bins[np.arange(len(labels)), labels], 1)

    def result(self) -> dict[str, float]:
        """Metrics of all samples counted: ``top1`` and ``top5`` in percent, ``loss`` in nats, ``macro_f1``, ``auc``.

        macro_f1 is the mean over the classes that occur as truth or prediction; auc the mean over those with positives
        and negatives. A metric without samples is nan.
        """
        samples, top1, top5, loss, undefined, infinite = (int(value) for value in self._single)
        if samples == 0:
            return dict.fromkeys(("top1", "top5", "loss", "macro_f1", "auc"), math.nan)
        measured = {"top1": 100 * top1 / samples, "top5": 100 * top5 / samples}
        if undefined:
            return measured | dict.fromkeys(("loss", "macro_f1", "auc"), math.nan)
        mean_loss = math.inf if infinite else loss / LOSS_UNIT / samples
        return measured | {"loss": mean_loss, "macro_f1": self._macro_f1(), "auc": self._auc()}

    def confusion(self) -> NDArray[np.int64]:
        """Copy of the confusion matrix, ``(K, K) int64``: rows are the true classes, columns the predicted ones."""
        return self._confusion.reshape(self.num_classes, self.num_classes).copy()

    def _macro_f1(self) -> float:
        confusion = self.confusion()
        true_or_predicted = confusion.sum(axis=0) + confusion.sum(axis=1)
        occurs = true_or_predicted > 0
        return float(np.mean(2 * confusion.diagonal()[occurs] / true_or_predicted[occurs]))

    def _auc(self) -> float:
        positives, everything = (part.reshape(-1, BINS) for part in (self._positives, self._everything))
        negatives = everything - positives
        # Twice the ordered pairs: all negatives of lower bins, and half of those in the same bin.
        below = 2 * negatives.cumsum(axis=1) - negatives
        ordered = (positives * below).sum(axis=1)
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return float(np.mean(ordered[pairs > 0] / (2 * pairs[pairs > 0]))) if pairs.any() else math.nan


def losses_and_log_odds(
    scores: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cross-entropy ``(B,)`` and log-odds ``(B, K)`` of the softmax of float64 logits ``(B, K)``, in nats.

    For p near 1 no digits of 1 - p are lost; if it underflows, the log-odds are infinite.
    """
    rows, best = np.arange(len(scores)), scores.argmax(axis=1)
    shifted = scores - scores[rows, best][:, None]
    exponentials = np.exp(shifted)
    exponentials[rows, best] = 0.0
    others = exponentials.sum(axis=1)  # the best class adds 1 to the softmax's denominator
    log_total = np.log1p(others)
    log_probability = shifted - log_total[:, None]
    with np.errstate(divide="ignore"):
        odds = log_probability - np.log1p(-np.exp(log_probability))
        odds[rows, best] = -np.log(others)
    return log_total - shifted[rows, labels], odds


@dataclass
class MovingAverage:
    """Exponential moving average: each new value has the given weight, the first one weight 1.

    The moving loss of *Deep Learning: The Straight Dope* (the MXNet tutorials), there with weight 0.01. It has no bias
    correction: after n values the first one still has the weight ``(1 - weight)^(n - 1)``, 37 % after 100 with 0.01.
    """

    weight: float
    value: float | None = None
    """The average, None before the first value; set it to continue an earlier average."""

    def update(self, value: float) -> float:
        """Add a value and return the average."""
        self.value = value if self.value is None else (1 - self.weight) * self.value + self.weight * value
        return self.value
