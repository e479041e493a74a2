"""Loading of a data set: its parts are read, checked and logged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.config.data_sets import DATA_SETS
from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.config.text import printable
from vggdist.data import folder
from vggdist.data.arrays import ArraySource, Source, Subset
from vggdist.data.encoded import EncodedSource
from vggdist.data.fingerprint import part_identity
from vggdist.data.readers import LoadedPart, held_out_split, in_files, load_parts
from vggdist.data.sanity_checks import abbreviated, part_line

__all__ = ["ArraySource", "DataSet", "Source", "load", "load_part"]

_log = logging.getLogger(__name__)
NAMES = {"train": "training", "validation": "validation", "test": "test"}
"""Names of the parts in messages."""


@dataclass(frozen=True)
class DataSet:
    """The parts, and the published mean and standard deviation of each channel on a scale from 0 to 1.

    Attributes:
        validation: held out of the training set (data.validation); None without a validation set.
        identity: fingerprint of each part by its name here; see :mod:`vggdist.data.fingerprint`.
    """

    train: Source
    test: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: Source | None = None
    identity: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Source]:
        """The existing parts by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def left_out(self) -> dict[str, int]:
        """Number of damaged images that were left out of each part."""
        return {name: part.left_out for name, part in self.parts.items()}


def load(data: DataConfig, seed: int) -> DataSet:
    """Load the configured data set.

    Args:
        seed: determines the held-out samples and the synthetic images; the same on every rank.

    Raises:
        RequestError: a file is missing, cannot be downloaded, or is invalid.
    """
    return assemble(dict(load_parts(data, seed)), data, seed)


def assemble(loaded: dict[str, LoadedPart], data: DataConfig, seed: int) -> DataSet:
    """Make a data set of its parts, and log them; holds out the validation part if data.validation is set.

    Args:
        loaded: ``train``, ``test``, and optionally ``validation``.

    Raises:
        RequestError: no image can be held out.
    """
    mean, std = (
        per_channel(values, loaded["train"].source.channels)
        for values in (DATA_SETS[data.name].mean, DATA_SETS[data.name].std)
    )
    if data.validation and "validation" not in loaded:
        loaded["train"], loaded["validation"] = hold_out(loaded["train"], data.validation, seed, "validation")
    for name, part in loaded.items():
        _report(NAMES[name], part)
    if data.damaged == "stop" and any(isinstance(part.source, EncodedSource) for part in loaded.values()):
        _log.info(
            "images are decoded during training; vggdist prepare --check %s finds damaged ones in advance",
            printable(data.root),
        )
    identity = {
        name: part_identity(part.source.labels, part.source.class_names, part.contents) for name, part in loaded.items()
    }
    return DataSet(**{name: part.source for name, part in loaded.items()}, mean=mean, std=std, identity=identity)


def load_part(data: DataConfig, seed: int, part: str, class_names: Sequence[str], whole: bool = False) -> Source:
    """Load one part of a data set to evaluate a network on it; the files of the other parts are not needed.

    Args:
        part: ``test``, ``validation`` (held out of the training set by data.validation), or ``train`` (the remaining images).
        class_names: of the network, in the order of its outputs; the labels of the result refer to them.
        whole: load all images of a folder that has class folders only, instead of those that a training would hold out.

    Raises:
        RequestError: as :func:`load`; also if the network does not have one of the classes, or data.validation is 0.
    """
    if whole and data.name == "folder" and folder.has_no_parts(Path(data.root)):
        names, listing = folder.scan_classes(Path(data.root))
        loaded = in_files(listing, names, data, len(listing.paths))
    else:
        loaded = _part(data, seed, part)
    _report(NAMES[part], loaded)
    return _relabelled(loaded.source, class_names)


def _part(data: DataConfig, seed: int, part: str) -> LoadedPart:
    if part == "validation" and not data.validation:
        raise RequestError("data.validation is 0, so there is no validation set; set it, or evaluate --data.part test")
    if part == "test" or not data.validation:
        return load_parts(data, seed, [part])[part]
    train, validation = hold_out(load_parts(data, seed, ["train"])["train"], data.validation, seed, "validation")
    return validation if part == "validation" else train


def per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Convert published statistics to a number of channels: grey is their mean, RGB repeats the value of grey."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels


def _report(name: str, part: LoadedPart) -> None:
    source = part.source
    if source.left_out:
        _log.warning("%d of %d %s images are damaged and left out", source.left_out, source.left_out + len(source), name)
    _log.info("%s set: %s", name, part_line(source.labels, source.class_names, part.origin))


def hold_out(train: LoadedPart, share: float, seed: int, name: str) -> tuple[LoadedPart, LoadedPart]:
    """Split the training part: the images to train on, and a held-out fraction of each class.

    Args:
        name: of the split; determines the held-out images, together with ``seed``.

    Raises:
        RequestError: no image is held out.
    """
    source = train.source
    kept, held = held_out_split(source.labels, share, seed, name)
    if not held.size:
        key = "data.validation" if name == "validation" else "data.held_out"
        raise RequestError(
            f"{key} {share:g} holds out no image: each class has one; add images, or provide this part separately"
        )
    rest = train._replace(source=take(source, kept))
    origin = f"held out of the training set, {100 * share:g} % of each class"
    return rest, LoadedPart(take(source, held, left_out=0), train.contents, origin)


def take(source: Source, indices: NDArray[np.int64], left_out: int | None = None) -> Source:
    """The images of a source at ``(N,)`` indices, in that order."""
    left_out = source.left_out if left_out is None else left_out
    labels = source.labels[indices]
    if isinstance(source, ArraySource):
        return ArraySource(
            source.images[indices], labels, source.class_names, left_out, lambda index: source.name(int(indices[index]))
        )
    if isinstance(source, EncodedSource):
        return EncodedSource(source.store.take(indices), labels, source.class_names, source.channels, left_out)
    return Subset(source, indices)


def _relabelled(source: Source, class_names: Sequence[str]) -> Source:
    """The source with labels that refer to ``class_names``."""
    if tuple(class_names) == source.class_names:
        return source
    places = {name: label for label, name in enumerate(class_names)}
    if unknown := [name for name in source.class_names if name not in places]:
        raise RequestError(
            f"the data set has {len(unknown)} classes that the network does not have: {abbreviated(unknown)}; the network has "
            f"{abbreviated(class_names)}"
        )
    table = np.array([places[name] for name in source.class_names], np.int32)
    if isinstance(source, ArraySource):
        return replace(source, labels=table[source.labels], class_names=tuple(class_names))
    assert isinstance(source, EncodedSource)
    return EncodedSource(source.store, table[source.labels], tuple(class_names), source.channels, source.left_out)
