"""A data set: both parts as they were loaded, judged, and reported in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vggdist.config.images import DataConfig
from vggdist.config.text import printable
from vggdist.data.arrays import ArraySource, Source
from vggdist.data.encoded import EncodedSource
from vggdist.data.identity import part_identity
from vggdist.data.parts import load_parts
from vggdist.data.sense import part_line

__all__ = ["STATISTICS", "ArraySource", "DataSet", "Source", "load"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """Both parts, and the published mean and standard deviation of each channel on a scale from 0 to 1.

    Attributes:
        identity: by what each part, ``train`` and ``test``, is recognised; see :mod:`vggdist.data.identity`.
    """

    train: Source
    test: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    identity: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, int]:
        """How many damaged images each part lacks."""
        return {"train": self.train.left_out, "test": self.test.left_out}


# Mean and standard deviation over all pixels of the training images, each channel, on a scale from 0 to 1.
# cifar10, cifar100, mnist, fashion_mnist: the figures in common use, those of the training files to four places.
# folder, records: ImageNet's, of fb.resnet.torch and torchvision. digits: measured on all 1,797 images as loaded here.
STATISTICS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "folder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "records": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "digits": ((0.3053,), (0.3759,)),
    "synthetic": ((0.5,), (0.5,)),
}


def load(data: DataConfig, seed: int) -> DataSet:
    """Load both parts of the data set that ``data`` names, in ``data.channels`` channels.

    Args:
        data: which data set, where its files are, and how they are read.
        seed: decides the held-out part and the synthetic images; the same on every rank.

    Raises:
        RequestError: a file is missing, cannot be fetched, or is not as it should be.
    """
    loaded = load_parts(data, seed)
    for name, part in zip(("training", "test"), loaded, strict=True):
        source = part.source
        if source.left_out:
            _log.warning("%d of %d %s images are damaged and left out", source.left_out, source.left_out + len(source), name)
        _log.info("%s set: %s", name, part_line(source.labels, source.class_names, part.origin))
    train, test = (part.source for part in loaded)
    if data.damaged == "stop" and any(isinstance(source, EncodedSource) for source in (train, test)):
        _log.info(
            "images are decoded when a step reads them; vggdist prepare --check %s finds damaged ones first",
            printable(data.root),
        )
    mean, std = (_per_channel(values, train.channels) for values in STATISTICS[data.name])
    kept = {
        name: part_identity(part.source.labels, part.source.class_names, part.contents)
        for name, part in zip(("train", "test"), loaded, strict=True)
    }
    return DataSet(train, test, mean, std, kept)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Published figures for another number of channels: grey takes their mean, RGB repeats the one of grey."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels
