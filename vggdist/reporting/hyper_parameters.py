"""The settings of a run that TensorBoard's HParams page compares."""

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
"""Keys that do not change the result, or whose resulting value :func:`hyper_parameters` adds."""


def hyper_parameters(config: Config, global_batch_size: int, ranks: int) -> dict[str, bool | float | str]:
    """The settings that may change the result of a run; null and lists are text.

    All of them, including defaults: TensorBoard lists settings that differ first, and omits a run from its plots if one of
    those is missing.
    """
    values = dataclasses.asdict(config)
    chosen: dict[str, Any] = {}
    for key in options(Config):
        section, _, name = key.partition(".")
        if key.startswith(_SECTIONS) and key not in _LEFT_OUT:
            value = values[section][name]
            chosen[key] = value if isinstance(value, (bool, int, float, str)) else written(value)
    return {**chosen, "train.global_batch_size": global_batch_size, "run.seed": config.run.seed, "ranks": ranks}
