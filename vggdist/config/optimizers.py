"""The optimizers by name: one entry each, with all that is known of one without MXNet.

A new optimizer is an entry here and its rule, a method of :class:`vggdist.training.optimizer.Optimizer` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class OptimizerInfo(NamedTuple):
    """What is known of an optimizer.

    Attributes:
        text: for ``--help``.
        states: what it remembers of each parameter, in arrays of the parameter's shape.
    """

    text: str
    states: tuple[str, ...]


OPTIMIZERS: Mapping[str, OptimizerInfo] = {
    "sgd": OptimizerInfo("with heavy-ball momentum", ("momentum",)),
    "nag": OptimizerInfo("Nesterov momentum", ("momentum",)),
    "adam": OptimizerInfo("L2 decay (Kingma & Ba 2015)", ("mean", "variance")),
    "adamw": OptimizerInfo("decoupled decay (Loshchilov & Hutter 2019)", ("mean", "variance")),
    "lars": OptimizerInfo("layer-wise rates (You et al. 2017)", ("momentum",)),
}
