"""What a run continues from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from vggdist.checkpoints.schema import CheckpointState


@dataclass(frozen=True)
class Start:
    """What a run continues from: a checkpoint, a commit in memory, or nothing if the run begins.

    Attributes:
        arrays: on the root; empty on the other ranks.
        state: on every rank; None if the run begins.
        root: the rank that has the arrays.
        origin: source of the arrays, for the log.
    """

    arrays: Mapping[str, NDArray[Any]]
    state: CheckpointState | None
    root: int = 0
    origin: str = "the checkpoint"
