"""State of a checkpoint without the arrays, for the tests."""

from __future__ import annotations

from typing import Any

from vggdist.checkpoints.schema import FORMAT, CheckpointState
from vggdist.config.schema import ModelConfig
from vggdist.models.spec import ModelSpec

MODEL = ModelSpec(ModelConfig(), ("round", "square"), channels=1, image_size=8, resize=8, mean=(0.5,), std=(0.25,))
"""Specification of a small network."""


def training_state(step: int, **values: Any) -> CheckpointState:
    """The state of a run at a step, with some values replaced."""
    state: CheckpointState = {
        "format": FORMAT,
        "step": step,
        "moving_average": 1.5,
        "best_value": None,
        "best_step": None,
        "evaluated_step": step,
        "interval": {"losses": [1.5, None], "hits": [3.0, 0.0], "samples": [8, 8], "skipped": [False, True]},
        "training_metrics": {"train/loss": 1.5},
        "evaluation_metrics": {"eval/loss": 1.25, "eval/auc": None},
        "model": MODEL.as_json(),
        "data": {
            "train": {"images": 10, "classes": {"round": 4, "square": 6}, "labels": "12ab", "contents": "34cd"},
        },
        "identity": {"global batch size": 8, "seed": 0, "drop the last batch": False},
        "settings": {"augment.mixup": "0.0"},
        "loaded": [],
        "world_size": 1,
        "scaled_for_ranks": 1,
        "threads": "1",
        "reduction": "nothing",
        "loss_scale": None,
        "versions": {"python": "3.11"},
    }
    return {**state, **values}  # type: ignore[typeddict-item]
