"""Table of the data sets: names, shapes and statistics, available without reading a file.

To add a data set, add an entry here and its loader to ``LOADERS`` in :mod:`vggdist.data.readers` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each channel, as in fb.resnet.torch, torchvision and Gluon's model zoo."""


@dataclass(frozen=True)
class DataSetInfo:
    """Static description of a data set.

    Attributes:
        text: description for ``--help``.
        image_size, channels, num_classes: of its images; if they depend on the files, the values that a plan assumes.
        training_images: their number in the publisher's files; None if it depends on the files.
        mean, std: of each channel over all pixels of the training images, on a scale from 0 to 1.
    """

    text: str
    image_size: int
    channels: int
    num_classes: int
    training_images: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Statistics: for cifar10, cifar100, mnist and fashion_mnist the commonly used values, computed from the training files and
# rounded to four places; for digits measured on all 1,797 images as loaded here.
DATA_SETS: Mapping[str, DataSetInfo] = {
    "digits": DataSetInfo("1,797 scanned 8x8 digits, included in scikit-learn", 8, 1, 10, None, (0.3053,), (0.3759,)),
    "cifar10": DataSetInfo(
        "the publisher's files in data.root",
        32,
        3,
        10,
        50_000,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "cifar100": DataSetInfo("as cifar10", 32, 3, 100, 50_000, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": DataSetInfo("as cifar10", 28, 1, 10, 60_000, (0.1307,), (0.3081,)),
    "fashion_mnist": DataSetInfo("as cifar10", 28, 1, 10, 60_000, (0.2860,), (0.3530,)),
    "folder": DataSetInfo(
        "images in data.root/train/<class>/ and data.root/test/<class>/ (or val), or in data.root/<class>/; without test "
        "images, data.held_out of the images are the test set",
        224,
        3,
        1000,
        None,
        *IMAGENET,
    ),
    "records": DataSetInfo(
        "train.rec and test.rec (or val.rec) with their .idx files, and classes.txt, as written by vggdist prepare",
        224,
        3,
        1000,
        None,
        *IMAGENET,
    ),
    "synthetic": DataSetInfo("noise with a class-dependent pattern, generated in memory", 32, 3, 10, None, (0.5,), (0.5,)),
    "given": DataSetInfo("images passed to vggdist.train from Python (docs/python.md)", 32, 3, 10, None, (0.5,), (0.5,)),
}
