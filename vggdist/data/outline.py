"""What is known of a data set without reading it: shapes, classes, and how many samples train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig

# Image size, channels and classes of the data sets whose files are not needed to know them.
_SHAPES = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "mnist": (28, 1, 10),
    "fashion_mnist": (28, 1, 10),
    "folder": (224, 3, 1000),
    "records": (224, 3, 1000),
}
# Training images in the publishers' files.
_SAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "mnist": 60_000, "fashion_mnist": 60_000}


@dataclass(frozen=True)
class Outline:
    """A data set from afar."""

    image_size: int
    """Side of the images that the network sees, in pixels."""
    channels: int
    num_classes: int


def outline(data: DataConfig) -> Outline:
    """Shapes and classes; a folder or record files stand for ImageNet's 224 px and 1,000 classes."""
    image_size, channels, num_classes = _SHAPES.get(data.name, (32, 3, data.synthetic_classes))
    return Outline(data.image_size or image_size, data.channels or channels, num_classes)


def survey(data: DataConfig, seed: int) -> tuple[Outline, int]:
    """The outline and the number of training samples; files are listed where that needs it, and no image is decoded.

    Raises:
        RequestError: when the folder is not there or not as it should be.
    """
    seen = outline(data)
    if data.name in _SAMPLES:
        return seen, _SAMPLES[data.name]
    if data.name == "synthetic":
        return seen, data.synthetic_samples
    from vggdist.data import parts, records, sources  # Pillow and pooch, which most plans do without

    if data.name == "digits":
        return seen, len(sources.load(data, seed).train)
    if not Path(data.root).is_dir():
        raise RequestError(f"data.root {data.root} is not a folder, so its images cannot be counted; set plan.samples")
    if data.name == "records":
        class_names, found, test = records.find(Path(data.root), data.damaged)
        labels = found.labels if test is not None else parts.held_out_split(found.labels, data.held_out, seed)[0]
    else:
        layout, listing, _ = parts.folder_listings(data, seed)
        class_names, labels = layout.class_names, listing.labels
    return replace(seen, num_classes=len(class_names)), len(labels)
