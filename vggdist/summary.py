"""Print a network's layers: ``python -m vggdist.summary --model.name vgg16 --data.name cifar10``. Needs no data."""

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
    """Run the command and return the exit code; for folder and records, 224 px and 1,000 classes are assumed."""
    return ExitHandler().run(lambda: summary(sys.argv[1:] if arguments is None else arguments))


def summary(arguments: Sequence[str]) -> dict[str, Any]:
    """Print the table of the configured network."""
    request = training_settings(_parser().parse(arguments).settings, PlanRequest)
    train, ranks = request.train, request.plan.ranks
    samples = global_batch_size(train.batch_size, train.global_batch_size, ranks, train.accumulation) // ranks
    layers = describe(request.model, **asdict(data_shape(request.data)))
    print(summary_table(layers, sent_by_layer(train, ranks, samples)))
    print(f"sent: per step by each of {ranks} ranks with {samples} samples (--plan.ranks, --train.batch_size)")
    return {}


def _parser() -> SettingsParser:
    epilog = "Every option of train is accepted."
    return SettingsParser("summary", PlanRequest, shown=_SHOWN, description=__doc__, epilog=epilog)


if __name__ == "__main__":
    sys.exit(main())
