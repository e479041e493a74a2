"""What a checkpoint holds beside the arrays."""

from __future__ import annotations

from typing import Any

from vggdist.checkpoints.schema import FORMAT, TrainingState


def training_state(step: int, **values: Any) -> TrainingState:
    """The state of a run at a step, with some values of its own."""
    state: TrainingState = {
        "format": FORMAT,
        "step": step,
        "moving_average": 1.5,
        "best_value": None,
        "best_step": None,
        "evaluated_step": step,
        "interval": {"losses": [1.5, None], "hits": [3.0, 0.0], "samples": [8, 8], "skipped": [False, True]},
        "training_metrics": {"train/loss": 1.5},
        "evaluation_metrics": {"eval/loss": 1.25, "eval/auc": None},
        "identity": {"model.name": "vgg11", "seed": 0, "drop the last batch": False},
        "augmentation": {"augment.mixup": "0.0"},
        "world_size": 1,
        "scaled_for_ranks": 1,
        "threads": "1",
        "reduction": "nothing",
        "versions": {"python": "3.11"},
    }
    return {**state, **values}  # type: ignore[typeddict-item]
