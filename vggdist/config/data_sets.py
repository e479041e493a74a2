"""The data sets by name: one entry each, with all that is known before a file is read.

A new data set is an entry here and its loader, a function in :mod:`vggdist.data.readers` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of each channel in fb.resnet.torch, torchvision and Gluon's model zoo."""


@dataclass(frozen=True)
class DataSetInfo:
    """What is known of a data set.

    Attributes:
        text: for ``--help``.
        loader: name of its function in :mod:`vggdist.data.readers`.
        image_size, channels, num_classes: of its images; where only the files say, what stands for them in a plan.
        training_images: in the publisher's files; None where only the files say.
        mean, std: over all pixels of the training images, each channel, on a scale from 0 to 1.
    """

    text: str
    loader: str
    image_size: int
    channels: int
    num_classes: int
    training_images: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Statistics: cifar10, cifar100, mnist and fashion_mnist have the figures in common use, those of the training files to four
# places; digits was measured on all 1,797 images as loaded here.
DATA_SETS: Mapping[str, DataSetInfo] = {
    "digits": DataSetInfo(
        "1,797 scanned 8x8 digits that come with scikit-learn", "digits", 8, 1, 10, None, (0.3053,), (0.3759,)
    ),
    "cifar10": DataSetInfo(
        "the publisher's files in data.root",
        "published",
        32,
        3,
        10,
        50_000,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "cifar100": DataSetInfo("likewise", "published", 32, 3, 100, 50_000, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": DataSetInfo("likewise", "published", 28, 1, 10, 60_000, (0.1307,), (0.3081,)),
    "fashion_mnist": DataSetInfo("likewise", "published", 28, 1, 10, 60_000, (0.2860,), (0.3530,)),
    "folder": DataSetInfo(
        "images under data.root/train/<class>/ and data.root/test/<class>/ (or val); without the second, or directly under "
        "data.root/<class>/, a part is held out",
        "in_folders",
        224,
        3,
        1000,
        None,
        *IMAGENET,
    ),
    "records": DataSetInfo(
        "train.rec, test.rec (or val.rec) with their .idx, and classes.txt, as vggdist prepare writes them",
        "in_records",
        224,
        3,
        1000,
        None,
        *IMAGENET,
    ),
    "synthetic": DataSetInfo(
        "noise with a class-dependent pattern, made in memory", "synthetic", 32, 3, 10, None, (0.5,), (0.5,)
    ),
    "given": DataSetInfo(
        "images that a program gives to vggdist.train (docs/python.md)", "given", 32, 3, 10, None, (0.5,), (0.5,)
    ),
}
