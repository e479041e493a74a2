"""Schema of ``state.json``, for writing, reading and validation.

A new entry is a line in :class:`CheckpointState`, or a ``TypedDict`` of its own if it has several values.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vggdist.config.errors import RequestError, written
from vggdist.models.spec import ModelSpec

FORMAT = 3
"""Version of ``state.json``; incremented when older checkpoints can no longer be continued."""


Steps = Annotated[int, Field(ge=0, le=2**62)]
Samples = Annotated[int, Field(ge=1, le=2**62)]
Ranks = Annotated[int, Field(ge=1, le=2**20)]
Metrics = dict[str, float | None]  # null is a value that is not finite


class IntervalState(TypedDict):
    """The steps since the last report, one entry for each (:class:`~vggdist.training.metric_accumulator.StepSums`)."""

    losses: list[float | None]
    hits: list[float]
    samples: list[Samples]
    skipped: list[bool]


class ProgressState(TypedDict):
    """Progress of the run (:class:`~vggdist.training.progress.Progress`)."""

    step: Steps
    moving_average: float | None
    best_value: float | None
    best_step: Steps | None
    evaluated_step: Steps | None
    interval: IntervalState | None
    training_metrics: Metrics
    evaluation_metrics: Metrics


class LossScaleState(TypedDict):
    """A dynamic loss scale (:class:`~vggdist.training.loss_scale.LossScale`): the scale of the next step, the steps since it
    changed, and whether the newest step's gradients were finite, which affects the scale after the next step."""

    scale: float
    good_steps: Steps
    finite: bool | None


class PartIdentity(TypedDict):
    """Fingerprint of a part of the data set (:func:`~vggdist.data.fingerprint.part_identity`)."""

    images: Steps
    classes: dict[str, int]
    labels: str
    contents: str


class CheckpointState(ProgressState):
    """Everything that a run needs to continue, apart from the arrays.

    ``model`` is the network's :class:`~vggdist.models.spec.ModelSpec`; ``data`` has each part of the data set by name;
    ``identity`` has what else must not change, ``settings`` what may. ``loaded`` names the layers that were initialised from
    model.pretrained.
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
    """The first invalid key in the content of a ``state.json``, and what was expected; None if the content is valid.

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
    """The beginning of a value; lists and objects are not written out."""
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else f"{written(value):.40}"


_CHECK = TypeAdapter(CheckpointState)
