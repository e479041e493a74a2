"""The class of each image in a stream of files, seen as an evaluation sees them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path

import mxnet as mx
import numpy as np
from scipy.special import softmax

from vggdist.config.errors import RequestError, RunError, VggdistError
from vggdist.config.images import ReadingConfig
from vggdist.config.schema import MeasuringConfig
from vggdist.data.augment import require_margin
from vggdist.data.encoded import EncodedSource
from vggdist.data.folder import FileStore
from vggdist.data.loader import prefetch
from vggdist.data.resize_crop import fixed_crops
from vggdist.models.model import Model
from vggdist.models.spec import ModelSpec
from vggdist.training.evaluation import mean_over_crops

Found = Path | RequestError
"""A file, or why there is none in its place."""


def predictions(
    model: Model,
    files: Iterable[Found],
    measuring: MeasuringConfig,
    reading: ReadingConfig,
    failed: Callable[[VggdistError], None],
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Score images, a batch at a time, in the order of the files; the memory does not depend on their number.

    All batches but a single one have the same shape, for which the network's graph is built once.

    Args:
        failed: called with the reason for each image that has no scores, which is then left out.

    Yields:
        Path and ``(num_classes,) float64`` probabilities of each image of a batch.

    Raises:
        RequestError: several crops are asked for, for which the scaled image has no room.
    """
    spec, crops = model.spec, measuring.crops
    require_margin(crops, spec.resize, spec.image_size)
    size = measuring.images_at_once // crops
    whole: list[tuple[Path, np.ndarray]] = []
    slots = None
    for path, pixels in framed(spec, files, reading, crops, ahead=reading.prefetch * size):
        if isinstance(pixels, VggdistError):
            failed(pixels)
            continue
        whole.append((path, pixels))
        if len(whole) == size:
            slots = size
            yield _scored(model, whole, slots, failed)
            whole = []
    if whole:
        yield _scored(model, whole, slots or len(whole), failed)


def framed(
    spec: ModelSpec, files: Iterable[Found], reading: ReadingConfig, crops: int = 1, ahead: int = 64
) -> Generator[tuple[Path, np.ndarray | RequestError]]:
    """Decode, scale and crop images in threads, in the order of the files.

    Args:
        ahead: images that may wait to be taken.

    Yields:
        Path and ``(crops, S, S, C) uint8`` of each, or why there are none.
    """
    return prefetch((partial(_framed, spec, crops, file) for file in files), reading.threads, ahead)


def _framed(spec: ModelSpec, crops: int, file: Found) -> tuple[Path, np.ndarray | RequestError]:
    if isinstance(file, RequestError):
        return Path(), file
    source = EncodedSource(FileStore([file]), np.zeros(1, np.int32), (), spec.channels)
    try:
        return file, fixed_crops(source, np.zeros(1, np.int64), spec.resize, spec.image_size, crops)
    except RequestError as error:
        return file, error


def _scored(
    model: Model, images: list[tuple[Path, np.ndarray]], slots: int, failed: Callable[[VggdistError], None]
) -> list[tuple[Path, np.ndarray]]:
    """The probabilities of up to ``slots`` images, whose batch is filled up with black ones."""
    paths, pixels = zip(*images)
    crops = len(pixels[0])
    batch = np.zeros((slots * crops, *pixels[0].shape[1:]), np.uint8)
    np.concatenate(pixels, out=batch[: len(images) * crops])
    found = []
    for path, values in zip(paths, probabilities(model, batch, crops)):
        if np.isfinite(values).all():
            found.append((path, values))
        else:
            failed(RunError(f"{path}: the network's scores are not finite"))
    return found


def probabilities(model: Model, images: np.ndarray, crops: int = 1) -> np.ndarray:
    """``(N * crops, S, S, C) uint8``, those of an image together, to ``(N, num_classes) float64`` that sum to 1."""
    scores = model.forward(mx.nd.array(images, ctx=model.device, dtype="uint8")).asnumpy()
    return softmax(mean_over_crops(scores, crops).astype(np.float64), axis=1)
