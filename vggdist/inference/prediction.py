"""Prediction for a stream of image files, with the preprocessing of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path

import mxnet as mx
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from vggdist.config.errors import RequestError, RunError, VggdistError
from vggdist.config.evaluation import MeasuringConfig
from vggdist.config.images import ReadingConfig
from vggdist.data.augment import require_margin
from vggdist.data.encoded import EncodedSource
from vggdist.data.folder import FileStore
from vggdist.data.loader import prefetch
from vggdist.data.resize_crop import fixed_crops
from vggdist.models.model import Model
from vggdist.models.spec import ModelSpec
from vggdist.training.evaluation import mean_over_inputs

FileOrError = Path | RequestError
"""A file, or the error in its place."""


def predictions(
    model: Model,
    files: Iterable[FileOrError],
    measuring: MeasuringConfig,
    reading: ReadingConfig,
    failed: Callable[[VggdistError], None],
) -> Iterator[list[tuple[Path, NDArray[np.float64]]]]:
    """Score images, a batch at a time, in the order of the files; the memory does not depend on their number.

    All batches have the same shape, for which the network's graph is built once; one batch alone has its own size.

    Args:
        failed: called with the error of each image that cannot be scored; it is skipped.

    Yields:
        Path and ``(num_classes,) float64`` probabilities of each image of a batch.

    Raises:
        RequestError: the scaled image has no room for several crops.
    """
    spec = model.spec
    require_margin(measuring.crops, spec.resize, spec.image_size)
    size = measuring.images_at_once // measuring.inputs_per_image
    pending: list[tuple[Path, NDArray[np.uint8]]] = []
    slots = None
    for path, pixels in framed(spec, files, reading, measuring.crops, measuring.views, ahead=reading.prefetch * size):
        if isinstance(pixels, VggdistError):
            failed(pixels)
            continue
        pending.append((path, pixels))
        if len(pending) == size:
            slots = size
            yield _scored(model, pending, slots, failed)
            pending = []
    if pending:
        yield _scored(model, pending, slots or len(pending), failed)


def framed(
    spec: ModelSpec,
    files: Iterable[FileOrError],
    reading: ReadingConfig,
    crops: int = 1,
    views: int = 1,
    ahead: int = 64,
) -> Generator[tuple[Path, NDArray[np.uint8] | RequestError]]:
    """Decode, scale and crop images in threads, in the order of the files.

    Args:
        ahead: images that may be decoded ahead.

    Yields:
        Path and ``(crops * views, S, S, C) uint8`` of each, or the error.
    """
    return prefetch((partial(_framed, spec, crops, views, file) for file in files), reading.threads, ahead)


def _framed(spec: ModelSpec, crops: int, views: int, file: FileOrError) -> tuple[Path, NDArray[np.uint8] | RequestError]:
    if isinstance(file, RequestError):
        return Path(), file
    source = EncodedSource(FileStore([file]), np.zeros(1, np.int32), (), spec.channels)
    try:
        return file, fixed_crops(source, np.zeros(1, np.int64), spec.resize, spec.image_size, crops, views)
    except RequestError as error:
        return file, error


def _scored(
    model: Model, images: list[tuple[Path, NDArray[np.uint8]]], slots: int, failed: Callable[[VggdistError], None]
) -> list[tuple[Path, NDArray[np.float64]]]:
    """The probabilities of up to ``slots`` images, in a batch that is padded with black ones."""
    paths, pixels = zip(*images)
    inputs = len(pixels[0])
    batch = np.zeros((slots * inputs, *pixels[0].shape[1:]), np.uint8)
    np.concatenate(pixels, out=batch[: len(images) * inputs])
    scored = []
    for path, values in zip(paths, probabilities(model, batch, inputs)):
        if np.isfinite(values).all():
            scored.append((path, values))
        else:
            failed(RunError(f"{path}: the network's scores are not finite"))
    return scored


def probabilities(model: Model, images: NDArray[np.uint8], inputs: int = 1) -> NDArray[np.float64]:
    """``(N * inputs, S, S, C) uint8``, those of an image adjacent, to ``(N, num_classes) float64`` that sum to 1."""
    scores = model.forward(mx.nd.array(images, ctx=model.device, dtype="uint8")).asnumpy()
    return softmax(mean_over_inputs(scores, inputs).astype(np.float64), axis=1)
