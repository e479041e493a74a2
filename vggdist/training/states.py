"""What an optimizer remembers of each parameter, without MXNet."""

from __future__ import annotations

from vggdist.config.schema import OptimizerConfig

STATES: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "nag": ("momentum",),
    "lars": ("momentum",),
    "adam": ("mean", "variance"),
    "adamw": ("mean", "variance"),
}
"""Every state has the parameter's shape."""


def state_kinds(optimizer: OptimizerConfig) -> tuple[str, ...]:
    """The states of a parameter; plain SGD without momentum has none."""
    return () if optimizer.name == "sgd" and optimizer.momentum == 0 else STATES[optimizer.name]
