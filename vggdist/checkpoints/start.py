"""What a run continues from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vggdist.checkpoints.schema import CheckpointState


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run continues from, or nothing where it begins.

    Attributes:
        arrays: on the root; empty on the others.
        state: on every rank.
        root: the rank that has the arrays.
        origin: where they are from, for the log.
    """

    arrays: Mapping[str, np.ndarray]
    state: CheckpointState | None
    root: int = 0
    origin: str = "the checkpoint"
