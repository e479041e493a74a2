"""Detects a network that is no better than chance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def is_at_chance(confusion: NDArray[np.int64], loss: float) -> bool:
    """Whether an evaluation is at the level of guessing by class frequency.

    Its accuracy is then at most the share of the largest class (within two standard deviations of a count), and its
    cross-entropy lies between the entropy of the classes and that of uniform guesses, ln K (tolerances: 2 % and 5 %).

    Args:
        confusion: ``(K, K)`` counts, a row for each true class.
        loss: mean cross-entropy in nats.
    """
    shares = confusion.sum(axis=1) / max(1, confusion.sum())
    entropy = -float(sum(share * math.log(share) for share in shares if share > 0))
    if entropy < 0.1:  # almost all images are of one class: any network is right
        return False
    chance = float(shares.max())
    accuracy = float(confusion.trace() / confusion.sum())
    spread = 2 * math.sqrt(chance * (1 - chance) / confusion.sum())
    return accuracy <= chance + spread and 0.98 * entropy <= loss <= 1.05 * math.log(len(confusion))


def advice(loss: float, num_classes: int) -> str:
    """A line for the log."""
    return (
        f"the loss of this evaluation, {loss:.4g}, is that of guessing (ln {num_classes} = {math.log(num_classes):.4g}): the "
        "network does not distinguish the classes yet. If this persists, lower optimizer.learning_rate, set "
        "schedule.warmup_epochs, or use model.batch_norm true"
    )
