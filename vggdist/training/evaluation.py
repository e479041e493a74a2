"""Evaluation of a network on a data set, each sample once, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.config.images import ReadingConfig
from vggdist.data.augment import Batch, EvaluationView
from vggdist.data.loader import prefetch
from vggdist.data.sampler import evaluation_batches
from vggdist.models.model import Model
from vggdist.training.metrics import EvaluationSums
from vggdist.training.mistakes import Mistakes

# In the messages of MXNet's pools and cudaMalloc, cuBLAS and cuDNN.
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        metrics: by name without the part.
        confusion: ``(K, K)`` counts, a row for each true class.
        sums: the totals that both were computed from.
        mistakes: of this rank only.
    """

    metrics: dict[str, float]
    confusion: NDArray[np.int64]
    sums: EvaluationSums
    mistakes: Mistakes


def evaluate(
    model: Model,
    view: EvaluationView,
    world: World,
    images_at_once: int,
    reading: ReadingConfig,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Evaluate a view; the sums are the same on every rank and for any number of ranks.

    Every rank must call this at the same place: the sums are reduced over the ranks, once, at the end.

    Args:
        images_at_once: batch size of a rank; each crop and view counts.
        stopped: called at each batch, equally often on every rank; when it returns true, on all ranks, the result is None.
    """
    sums, mistakes = EvaluationSums(len(model.spec.class_names)), Mistakes()
    for scored in scored_batches(model, view, world, images_at_once, reading):
        if stopped():
            return None
        if scored is not None:
            batch, scores = scored
            sums.add(scores, batch.labels, batch.mask)
            mistakes.add(batch, scores)
    total = EvaluationSums.from_array(sums.num_classes, world.sum(sums.as_array()))
    return Evaluation(total.result(), total.confusion(), total, mistakes)


def scored_batches(
    model: Model, view: EvaluationView, world: World, images_at_once: int, reading: ReadingConfig
) -> Iterator[tuple[Batch, NDArray[Any]] | None]:
    """This rank's batches of a view with their scores, ``(B, num_classes) float32``, equally many on every rank.

    Yields None when this rank has no batch left. If the network has several inputs for each image (crops or views), the
    softmax is averaged over them.
    """
    size = max(1, images_at_once // view.inputs_per_image)
    tasks = [partial(_batch, view, samples, size) for samples in evaluation_batches(len(view), size, world.size, world.rank)]
    batches = prefetch(tasks, reading.threads, reading.prefetch)
    for _ in range(-(-len(view) // (size * world.size))):
        batch = next(batches, None)
        if batch is None:
            yield None
            continue
        scores = model.forward(mx.nd.array(batch.images, ctx=model.device, dtype="uint8"))
        yield batch, mean_over_inputs(scores.asnumpy(), view.inputs_per_image)


def reserve_memory(
    forward: Callable[[mx.nd.NDArray], mx.nd.NDArray], shape: tuple[int, int, int, int], device: mx.Context
) -> None:
    """Allocate the device memory of evaluations, so that too large a batch fails now and not after an epoch.

    The network's static graph keeps the memory.

    Args:
        shape: of the images in one forward pass, ``(B, S, S, C)``.

    Raises:
        RequestError: the device has too little memory.
    """
    try:
        forward(mx.nd.zeros(shape, ctx=device, dtype="uint8")).wait_to_read()
    except mx.MXNetError as error:
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise RequestError(
            f"an evaluation of {shape[0]} images at once does not fit into the memory of {device}; lower evaluation.batch_size"
        ) from error


def mean_over_inputs(scores: NDArray[Any], inputs: int) -> NDArray[Any]:
    """Combine logits ``(B * inputs, K)``, those of a sample adjacent, to ``(B, K)`` whose softmax is the mean over the inputs.

    A logit that is not finite makes all logits of its sample nan. With one input the logits are returned unchanged.
    """
    if inputs == 1:
        return scores
    logits = scores.reshape(-1, inputs, scores.shape[1]).astype(np.float64)
    logits[~np.isfinite(logits).all(axis=(1, 2))] = np.nan
    log_probabilities = logits - logsumexp(logits, axis=2, keepdims=True)
    return logsumexp(log_probabilities, axis=1) - math.log(inputs)


def _batch(view: EvaluationView, samples: NDArray[np.int64], size: int) -> Batch:
    """A batch of fixed size, for the network's static shape: the last one is padded with its first sample, which is masked."""
    filled = np.full(size, samples[0])
    filled[: len(samples)] = samples
    return view.batch(filled, (np.arange(size) < len(samples)).astype(np.float32))
