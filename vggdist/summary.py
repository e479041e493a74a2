"""Print a network's blocks: ``python -m vggdist.summary --model.name vgg16 --data.name cifar10``. Needs no data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vggdist.config.command_line import SettingsParser
from vggdist.config.load import training_settings
from vggdist.config.schema import Config
from vggdist.data.outline import outline
from vggdist.exit_handling import ExitHandler
from vggdist.models.layers import describe, summary_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; a folder of images stands for ImageNet's 224 px and 1,000 classes."""
    return ExitHandler().run(lambda: summary(sys.argv[1:] if arguments is None else arguments))


def summary(arguments: Sequence[str]) -> dict[str, Any]:
    """Print the table of the network that the arguments ask for."""
    config = training_settings(_parser().parse(arguments).settings, Config)
    print(summary_table(describe(config.model, **asdict(outline(config.data)))))
    return {}


def _parser() -> SettingsParser:
    shown = ("model", "data.name", "data.image_size", "data.channels", "data.synthetic_classes")
    return SettingsParser("summary", Config, shown=shown, description=__doc__, epilog="Every option of train is accepted.")


if __name__ == "__main__":
    sys.exit(main())
