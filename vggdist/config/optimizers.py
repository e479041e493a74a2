"""Table of the optimizers: descriptions and state names, available without MXNet.

To add an optimizer, add an entry here and its update rule in :mod:`vggdist.training.optimizer` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class OptimizerInfo(NamedTuple):
    """Static description of an optimizer.

    Attributes:
        text: description for ``--help``.
        states: names of its state arrays per parameter, each of the parameter's shape.
    """

    text: str
    states: tuple[str, ...]


OPTIMIZERS: Mapping[str, OptimizerInfo] = {
    "sgd": OptimizerInfo("with heavy-ball momentum", ("momentum",)),
    "nag": OptimizerInfo("Nesterov momentum", ("momentum",)),
    "adam": OptimizerInfo("L2 decay (Kingma & Ba 2015)", ("mean", "variance")),
    "adamw": OptimizerInfo("decoupled decay (Loshchilov & Hutter 2019)", ("mean", "variance")),
    "muon": OptimizerInfo(
        "orthogonalised updates of the weights of convolutions and hidden layers, nag for all else (Jordan et al. 2024)",
        ("momentum",),
    ),
    "lars": OptimizerInfo("layer-wise rates (You et al. 2017)", ("momentum",)),
}
