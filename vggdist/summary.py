"""Print a network's blocks: ``python -m vggdist.summary --model.name vgg16 --data.name cifar10``. Needs no data."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.config.schema import DataConfig
from vggdist.models.layers import describe, summary_table

# Image size, channels and classes of the data sets whose files are not needed to know them.
_KNOWN = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "mnist": (28, 1, 10),
    "fashion_mnist": (28, 1, 10),
    "folder": (224, 3, 1000),
    "records": (224, 3, 1000),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; a folder of images stands for ImageNet's 224 px and 1,000 classes."""
    try:
        config = load("summary", sys.argv[1:] if arguments is None else arguments)
        image_size, channels, num_classes = _shape(config.data)
        print(summary_table(describe(config.model, channels=channels, image_size=image_size, num_classes=num_classes)))
    except RequestError as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _shape(data: DataConfig) -> tuple[int, int, int]:
    image_size, channels, num_classes = _KNOWN.get(data.name, (32, 3, data.synthetic_classes))
    return data.image_size or image_size, data.channels or channels, num_classes


if __name__ == "__main__":
    sys.exit(main())
