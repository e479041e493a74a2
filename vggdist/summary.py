"""Print a network's blocks: ``python -m vggdist.summary --model.name vgg16 --data.name cifar10``. Needs no data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vggdist.config.command_line import SettingsParser
from vggdist.config.load import training_settings
from vggdist.config.plan import PlanRequest
from vggdist.data.data_shape import data_shape
from vggdist.data.sampler import global_batch_size
from vggdist.exit_handling import ExitHandler
from vggdist.models.layers import describe, summary_table
from vggdist.training.gradient_exchange import sent_by_layer

_SHOWN = (
    *("model", "data.name", "data.image_size", "data.channels", "data.synthetic_classes"),
    *("plan.ranks", "train.batch_size", "train.global_batch_size", "train.compression"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; a folder of images stands for ImageNet's 224 px and 1,000 classes."""
    return ExitHandler().run(lambda: summary(sys.argv[1:] if arguments is None else arguments))


def summary(arguments: Sequence[str]) -> dict[str, Any]:
    """Print the table of the network that the arguments ask for."""
    request = training_settings(_parser().parse(arguments).settings, PlanRequest)
    train, ranks = request.train, request.plan.ranks
    samples = global_batch_size(train.batch_size, train.global_batch_size, ranks, train.accumulation) // ranks
    layers = describe(request.model, **asdict(data_shape(request.data)))
    print(summary_table(layers, sent_by_layer(train, ranks, samples)))
    print(f"sent: by each of {ranks} ranks with {samples} samples, in a step (--plan.ranks, --train.batch_size)")
    return {}


def _parser() -> SettingsParser:
    epilog = "Every option of train is accepted."
    return SettingsParser("summary", PlanRequest, shown=_SHOWN, description=__doc__, epilog=epilog)


if __name__ == "__main__":
    sys.exit(main())
