"""The worst mistakes of an evaluation: misclassified images whose true class has the lowest probability."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from vggdist.collectives.world import World
from vggdist.data.augment import Batch
from vggdist.models.spec import ModelSpec
from vggdist.reporting.evaluation_images import THUMBNAIL, Mistake

KEPT = 24
"""Images kept on each rank, and in total."""


class _Candidate(NamedTuple):
    """A mistake of this rank; the lowest in tuple order is the worst.

    Attributes:
        likelihood: probability of the true class; -1 if the scores are not finite.
        probability: of the predicted class.
        image: ``(S, S, C) uint8`` input of the network, the first crop or view.
    """

    likelihood: float
    sample: int
    true: int
    predicted: int
    probability: float
    image: NDArray[np.uint8]


class Mistakes:
    """This rank's worst mistakes of an evaluation, at most :data:`KEPT`."""

    def __init__(self) -> None:
        self._worst: list[_Candidate] = []

    def add(self, batch: Batch, scores: NDArray[Any]) -> None:
        """Add a batch with its logits, ``(B, K)``."""
        predicted = scores.argmax(axis=1)
        wrong = np.flatnonzero((batch.mask > 0) & (predicted != batch.labels))
        if not wrong.size:
            return
        with np.errstate(invalid="ignore"):
            probabilities = softmax(scores[wrong].astype(np.float64), axis=1)
        rows, true, predicted = np.arange(len(wrong)), batch.labels[wrong], predicted[wrong]
        columns = (
            np.nan_to_num(probabilities[rows, true], nan=-1),
            batch.samples[wrong],
            true,
            predicted,
            probabilities[rows, predicted],
        )
        inputs = len(batch.images) // len(batch.labels)
        worst = np.lexsort((columns[1], columns[0]))[:KEPT]
        images = [image.copy() for image in batch.images[wrong[worst] * inputs]]
        candidates = zip(*(column[worst].tolist() for column in columns), images)
        self._worst = sorted([*self._worst, *map(_Candidate._make, candidates)])[:KEPT]  # one of each sample

    def of_all_ranks(self, world: World, spec: ModelSpec) -> list[Mistake]:
        """The worst of all ranks, the worst first; every rank must call this and gets the same.

        The ranks first gather everything but the images, then sum the chosen images, scaled down to thumbnails.
        """
        gathered = world.gather([candidate[:-1] for candidate in self._worst])
        ranked = sorted(tuple(one) for ones in gathered for one in ones)[:KEPT]
        side = min(spec.image_size, THUMBNAIL)
        images = np.zeros((len(ranked), side, side, spec.channels), np.int32)
        own = {candidate.sample: candidate.image for candidate in self._worst}
        for slot, (_, sample, *_) in enumerate(ranked):
            if sample in own:
                images[slot] = _scaled(own[sample], side)
        if ranked:
            images = world.sum(images)
        names = spec.class_names
        return [
            Mistake(image.astype(np.uint8), names[true], names[predicted], probability)
            for image, (_, _, true, predicted, probability) in zip(images, ranked)
        ]


def _scaled(image: NDArray[np.uint8], side: int) -> NDArray[Any]:
    if len(image) == side:
        return image
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).reshape(side, side, -1)
