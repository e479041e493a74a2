"""Which settings of a run TensorBoard's HParams page compares."""

from __future__ import annotations

import dataclasses
from typing import Any

from vggdist.config.errors import written
from vggdist.config.options import options
from vggdist.config.schema import Config

_ALWAYS = {
    "model.name",
    "model.batch_norm",
    "model.dropout",
    "data.name",
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "schedule.name",
    "train.epochs",
    "train.label_smoothing",
}
_SECTIONS = ("model.", "data.", "optimizer.", "schedule.", "train.")
_LEFT_OUT = {
    *("data.root", "data.download", "data.threads", "data.prefetch", "data.damaged"),
    *("train.batch_size", "train.global_batch_size", "train.bucket_cap_mb", "train.loss_smoothing"),
}
"""What does not change the result, or is in :func:`hyper_parameters` under another name."""


def hyper_parameters(config: Config, global_batch_size: int, ranks: int) -> dict[str, bool | float | str]:
    """The settings that make a difference: the usual ones, and each other one that is not at its default.

    The augmentations are one text, such as ``flip, pad_crop 4``. A setting that is null is left out.
    """
    known, values = options(Config), dataclasses.asdict(config)
    found: dict[str, Any] = {}
    for key, option in known.items():
        section, _, name = key.partition(".")
        value = values[section][name]
        differs = key.startswith(_SECTIONS) and key not in _LEFT_OUT and value != option.default
        if value is not None and (key in _ALWAYS or differs):
            found[key] = value if isinstance(value, (bool, int, float, str)) else written(value)
    changed = {name: value for name, value in values["augment"].items() if value != known[f"augment.{name}"].default}
    augmentations = [name if value is True else f"{name} {_plain(value)}" for name, value in changed.items()]
    return {
        **found,
        "augment": ", ".join(augmentations) or "none",
        "train.global_batch_size": global_batch_size,
        "run.seed": config.run.seed,
        "ranks": ranks,
    }


def _plain(value: object) -> str:
    return value if isinstance(value, str) else written(value)
