"""Image shape, classes and number of training samples of a data set, without reading images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vggdist.config.data_sets import DATA_SETS
from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig


@dataclass(frozen=True)
class DataShape:
    """Network input and number of classes of a data set."""

    image_size: int
    """Side of the network's input in pixels."""
    channels: int
    num_classes: int


def data_shape(data: DataConfig) -> DataShape:
    """Shape and classes of a configured data set; for folder and records those of ImageNet, 224 px and 1,000 classes."""
    info = DATA_SETS[data.name]
    num_classes = data.synthetic_classes if data.name == "synthetic" else info.num_classes
    return DataShape(data.image_size or info.image_size, data.channels or info.channels, num_classes)


def count_samples(data: DataConfig, seed: int) -> tuple[DataShape, int]:
    """The shape and the number of training samples; files are listed if necessary, but no image is decoded.

    Raises:
        RequestError: the folder is missing or invalid.
    """
    shape, published = data_shape(data), DATA_SETS[data.name].training_images
    from vggdist.data import dataset, readers, record_dataset  # imports Pillow and pooch, which most plans do not need

    if published is not None and not data.validation:
        return shape, published
    if data.name in ("synthetic", "digits"):
        return shape, len(dataset.load(data, seed).train)
    if published is not None:
        labels = np.arange(published) % shape.num_classes  # equal classes: the held-out number is rounded per class
    elif not Path(data.root).is_dir():
        raise RequestError(f"data.root {data.root} is not a folder, so its images cannot be counted; set plan.samples")
    elif data.name == "records":
        class_names, found, test = record_dataset.find(Path(data.root), data.damaged)
        labels = found.labels if test is not None else readers.held_out_split(found.labels, data.held_out, seed)[0]
    else:
        layout, listing, _ = readers.folder_listings(data, seed)
        class_names, labels = layout.class_names, listing.labels
    if data.validation:
        labels = readers.held_out_split(labels, data.validation, seed, "validation")[0]
    return (shape if published is not None else replace(shape, num_classes=len(class_names))), len(labels)
