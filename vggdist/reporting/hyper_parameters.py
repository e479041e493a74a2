"""Which settings of a run TensorBoard's HParams page compares."""

from __future__ import annotations

import dataclasses
from typing import Any

from vggdist.config.errors import written
from vggdist.config.options import options
from vggdist.config.schema import Config

_SECTIONS = ("model.", "data.", "augment.", "optimizer.", "schedule.", "train.")
_LEFT_OUT = {
    *("data.root", "data.download", "data.threads", "data.prefetch", "data.damaged"),
    *("train.batch_size", "train.global_batch_size", "train.loss_smoothing"),
}
"""What does not change the result, or is in :func:`hyper_parameters` as it came out."""


def hyper_parameters(config: Config, global_batch_size: int, ranks: int) -> dict[str, bool | float | str]:
    """The settings that may change what a run reaches; null and lists are text.

    All of them, whatever their value: TensorBoard lists those first in which runs differ, and leaves a run that lacks one of
    those out of its plots.
    """
    values = dataclasses.asdict(config)
    found: dict[str, Any] = {}
    for key in options(Config):
        section, _, name = key.partition(".")
        if key.startswith(_SECTIONS) and key not in _LEFT_OUT:
            value = values[section][name]
            found[key] = value if isinstance(value, (bool, int, float, str)) else written(value)
    return {**found, "train.global_batch_size": global_batch_size, "run.seed": config.run.seed, "ranks": ranks}
