"""What ``state.json`` holds, in one place: for who writes it, for who reads it, and for the check of what was read.

A new entry is a line in :class:`TrainingState`, or a ``TypedDict`` of its own where it has several values.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

FORMAT = 2
"""Of ``state.json``; raised when a checkpoint of the former kind can no longer be continued."""


@dataclass(frozen=True)
class Range:
    """Limits of a whole number."""

    least: int
    most: int = 2**62


Steps = Annotated[int, Range(0)]
Samples = Annotated[int, Range(1)]
Ranks = Annotated[int, Range(1, 2**20)]
Metrics = dict[str, float | None]  # null stands for a value that is not finite


class IntervalState(TypedDict):
    """The steps since the last report, one entry for each (:class:`~vggdist.training.interval.StepSums`)."""

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


class TrainingState(ProgressState):
    """Everything that a run needs to continue beside the arrays."""

    format: int
    identity: dict[str, str | int | bool]
    augmentation: dict[str, str]
    world_size: Ranks
    scaled_for_ranks: Ranks
    threads: str | None
    reduction: str
    versions: dict[str, str]


def fault(state: Any) -> str | None:
    """What is wrong with the content of a ``state.json``: the first key, and what was expected there; None if nothing is.

    Keys that are not in the schema are allowed.
    """
    if found := _mismatch(state, TrainingState, ""):
        return found
    if (interval := state["interval"]) is not None and len({len(values) for values in interval.values()}) > 1:
        return "the lists of interval have different lengths"
    return None


def _mismatch(value: Any, kind: Any, key: str) -> str | None:
    """The first part of a value that is not of a kind, which is a type as the classes above have it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        return _in_object(value, get_type_hints(kind, include_extras=True), key)
    if origin in (Union, types.UnionType):
        return _in_union(value, kind, key)
    if origin is list and isinstance(value, list):
        return _first(_mismatch(item, arguments[0], f"{key}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return _first(_mismatch(item, arguments[1], f"{key}.{name}") for name, item in value.items())
    if origin in (None, Annotated) and _is_of(value, kind):
        return None
    return _unexpected(value, kind, key)


def _in_object(value: Any, hints: dict[str, Any], key: str) -> str | None:
    if not isinstance(value, dict):
        return f"{key or 'it'} is {_shown(value)}; expected an object"
    inside = f"{key}." if key else ""
    if missing := next((name for name in hints if name not in value), None):
        return f"{inside}{missing} is missing"
    return _first(_mismatch(value[name], hint, inside + name) for name, hint in hints.items())


def _in_union(value: Any, kind: Any, key: str) -> str | None:
    found = [_mismatch(value, one, key) for one in get_args(kind)]
    if None in found:
        return None
    # An object that is not quite right: what is wrong within it, which the first kind says (the last is null).
    return found[0] if isinstance(value, dict) else _unexpected(value, kind, key)


def _is_of(value: Any, kind: Any) -> bool:
    limits = Range(-(2**62))
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)
    if kind is float and type(value) is float:
        return True
    if kind in (int, float) and type(value) is int:  # not bool, which is an int to Python
        return limits.least <= value <= limits.most
    return type(value) is kind


def _unexpected(value: Any, kind: Any, key: str) -> str:
    return f"{key} is {_shown(value)}; expected {_name(kind)}"


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"a whole number from {arguments[1].least} to {arguments[1].most}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_name, arguments))
    return "a list" if origin is list else names.get(kind, "an object")


def _shown(value: Any) -> str:
    """The beginning of a value as JSON has it; a huge number or a deep list is not written out."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return f"{json.dumps(value):.40}"


def _first(found: Iterable[str | None]) -> str | None:
    return next((one for one in found if one is not None), None)
