"""A data set of images that are passed to the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data import fingerprint
from vggdist.data.arrays import ArraySource, Source
from vggdist.data.dataset import DataSet, assemble, hold_out
from vggdist.data.decode import convert_channels
from vggdist.data.published import PARTS
from vggdist.data.readers import LoadedPart, check_classes

Part = Source | tuple[Any, Any]
"""Images with labels: a source, or a pair of arrays."""
InputData = Part | Mapping[str, Part]
"""A part, of which the test set is held out, or parts by name."""


def data_set(inputs: InputData, data: DataConfig, seed: int) -> DataSet:
    """Make a data set of images in memory; missing test and validation parts are held out (data.held_out, data.validation).

    Args:
        inputs: see :func:`vggdist.api.train`. The classes of arrays are 0 to the largest label of all parts.
        seed: determines the held-out samples.

    Raises:
        RequestError: a part is invalid.
    """
    parts = dict(inputs) if isinstance(inputs, Mapping) else {"train": inputs}
    if "train" not in parts or parts.keys() - {*PARTS, "validation"}:
        raise RequestError(f"data has the parts {', '.join(map(str, parts))}; expected train, test and optionally validation")
    classes = max((_largest_label(name, part) for name, part in parts.items() if isinstance(part, tuple)), default=-1) + 1
    loaded = {name: _loaded(name, part, classes, data) for name, part in parts.items()}
    if "test" not in loaded:
        loaded["train"], loaded["test"] = hold_out(loaded["train"], data.held_out, seed, "held out")
    _require_equal_kind({name: part.source for name, part in loaded.items()})
    train, test = (loaded[name].source for name in PARTS)
    check_classes("data", train.class_names, train.labels, test.labels)
    return assemble(loaded, data, seed)


def _require_equal_kind(sources: Mapping[str, Source]) -> None:
    """Raise ``RequestError`` unless all parts have the classes and channels of the training part."""
    train = sources["train"]
    for name, part in sources.items():
        for what, own, expected in (
            ("classes", part.class_names, train.class_names),
            ("channels", part.channels, train.channels),
        ):
            if own != expected:
                raise RequestError(
                    f"data: the {name} part has the {what} {own!s:.200}, and the train part {expected!s:.200}; make them equal"
                )


def _largest_label(name: str, part: tuple[Any, Any]) -> int:
    if len(part) != 2:
        raise RequestError(f"data: the {name} part has {len(part)} entries; expected images and labels")
    labels = np.asarray(part[1])
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size or labels.min() < 0:
        raise RequestError(
            f"data: the labels of the {name} part are {labels.dtype} {labels.shape}; expected integers (N,) from 0 on"
        )
    return int(labels.max())


def _loaded(name: str, part: Part, classes: int, data: DataConfig) -> LoadedPart:
    if not isinstance(part, tuple):
        return LoadedPart(part, contents="")
    images, labels = np.asarray(part[0]), np.asarray(part[1], np.int32)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or len(images) != len(labels):
        raise RequestError(
            f"data: the images of the {name} part are {images.dtype} {images.shape} with {len(labels)} labels; expected uint8 "
            f"(N, H, W) or (N, H, W, 1 or 3) and N labels"
        )
    names = tuple(map(str, range(classes)))
    converted = convert_channels(images, data.channels or images.shape[-1])
    return LoadedPart(ArraySource(converted, labels, names), fingerprint.of_pixels(images))
