"""What ``state.json`` holds, in one place: for who writes it, for who reads it, and for the check of what was read.

A new entry is a line in :class:`CheckpointState`, or a ``TypedDict`` of its own where it has several values.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vggdist.config.errors import RequestError, written
from vggdist.models.spec import ModelSpec

FORMAT = 3
"""Of ``state.json``; raised when a checkpoint of the former kind can no longer be continued."""


Steps = Annotated[int, Field(ge=0, le=2**62)]
Samples = Annotated[int, Field(ge=1, le=2**62)]
Ranks = Annotated[int, Field(ge=1, le=2**20)]
Metrics = dict[str, float | None]  # null stands for a value that is not finite


class IntervalState(TypedDict):
    """The steps since the last report, one entry for each (:class:`~vggdist.training.metric_accumulator.StepSums`)."""

    losses: list[float | None]
    hits: list[float]
    samples: list[Samples]
    skipped: list[bool]


class ProgressState(TypedDict):
    """How far the run has come (:class:`~vggdist.training.progress.Progress`)."""

    step: Steps
    moving_average: float | None
    best_value: float | None
    best_step: Steps | None
    evaluated_step: Steps | None
    interval: IntervalState | None
    training_metrics: Metrics
    evaluation_metrics: Metrics


class LossScaleState(TypedDict):
    """A dynamic loss scale (:class:`~vggdist.training.loss_scale.LossScale`): that of the next step, the steps since it
    changed, and whether the newest step's gradients were finite, which changes the scale after the next step."""

    scale: float
    good_steps: Steps
    finite: bool | None


class PartIdentity(TypedDict):
    """By what a part of the data set is recognised (:func:`~vggdist.data.fingerprint.part_identity`)."""

    images: Steps
    classes: dict[str, int]
    labels: str
    contents: str


class CheckpointState(ProgressState):
    """Everything that a run needs to continue beside the arrays.

    ``model`` is what its network is built from (:class:`~vggdist.models.spec.ModelSpec`); ``data`` has each part of the data
    set by its name; ``identity`` what else must not change, and ``settings`` what may. ``loaded`` names the rows of the
    network that began with the values of model.pretrained.
    """

    format: int
    model: dict
    data: dict[str, PartIdentity]
    identity: dict[str, str | int | bool]
    settings: dict[str, str]
    loaded: list[str]
    world_size: Ranks
    scaled_for_ranks: Ranks
    threads: str | None
    reduction: str
    loss_scale: LossScaleState | None
    versions: dict[str, str]


def fault(state: Any) -> str | None:
    """What is wrong with the content of a ``state.json``: the first key, and what was expected there; None if nothing is.

    Keys that are not in the schema are allowed.
    """
    try:
        _CHECK.validate_python(state, strict=True)
        ModelSpec.from_json(state["model"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = f"{'.'.join(map(str, first['loc'])) or 'it':.200}"
        if first["type"] == "missing":
            return f"{key} is missing"
        return f"{key} is {_shown(first['input'])}; {first['msg'].replace('Input should be', 'expected')}"
    except RequestError as error:
        return str(error)
    if (interval := state["interval"]) is not None and len({len(values) for values in interval.values()}) > 1:
        return "the lists of interval have different lengths"
    return None


def _shown(value: Any) -> str:
    """The beginning of a value; a deep list is not written out."""
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else f"{written(value):.40}"


_CHECK = TypeAdapter(CheckpointState)
