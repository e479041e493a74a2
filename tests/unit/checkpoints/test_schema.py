"""A state that a run cannot continue from is detected, and the message names the key."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from tests.states import MODEL, training_state
from vggdist.checkpoints.schema import CheckpointState, fault
from vggdist.training.metrics import MovingAverage
from vggdist.training.progress import Progress

STRANGE: list[Any] = [None, True, -1, 0, 2.5, 2**63, "x", [], {}, [1], {"a": 1}, ["x"], {"a": ["x"]}, [[]], {"losses": 3}]


def state() -> Any:
    return json.loads(json.dumps(training_state(12)))


def test_what_a_run_writes_is_right() -> None:
    assert fault(state()) is None
    assert fault(training_state(1, interval=None, moving_average=None, threads=None, best_value=7, best_step=3)) is None
    progress = Progress(MovingAverage(0.1), step=3, evaluation_metrics={"eval/auc": float("nan")})
    assert fault(training_state(3) | progress.as_state()) is None


@pytest.mark.parametrize("key", get_type_hints(CheckpointState))
def test_a_missing_key_is_named(key: str) -> None:
    found = state()
    del found[key]
    assert fault(found) == f"{key} is missing"


def test_a_key_of_a_later_version_is_let_through() -> None:
    assert fault({**state(), "weather": "fair"}) is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("step", "12", "step is '12'; expected a valid integer"),
        ("step", True, "step is true; expected a valid integer"),
        ("step", 12.0, "step is 12.0; expected a valid integer"),
        ("step", -1, "step is -1; expected greater than or equal to 0"),
        ("world_size", 0, "world_size is 0; expected greater than or equal to 1"),
        ("scaled_for_ranks", 10**9, "scaled_for_ranks is 1000000000; expected less than or equal to 1048576"),
        ("moving_average", "x", "moving_average is 'x'; expected a valid number"),
        ("best_step", [], "best_step is a list; expected a valid integer"),
        ("threads", 4, "threads is 4; expected a valid string"),
        ("identity", [], "identity is a list; expected a valid dictionary"),
        ("identity", {"seed": None}, "identity.seed.str is null; expected a valid string"),
        ("settings", {"augment.mixup": 0.1}, "settings.augment.mixup is 0.1; expected a valid string"),
        ("data", {"train": {}}, "data.train.images is missing"),
        ("model", {}, "model.architecture: Field required"),
        ("model", {**MODEL.as_json(), "image_size": 0}, "model: image_size is 0; expected 1 to "),
        ("model", {**MODEL.as_json(), "class_names": [3]}, "model.class_names.0: Input should be a valid string"),
        ("training_metrics", {"train/loss": "x" * 10**6}, "training_metrics.train/loss is 'xxx"),
        ("interval", {}, "interval.losses is missing"),
        ("interval", 3, "interval is 3; expected a valid dictionary"),
        ("versions", None, "versions is null; expected a valid dictionary"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_was_expected(key: str, value: Any, expected: str) -> None:
    found = fault({**state(), key: value})
    assert found is not None and found.startswith(expected) and len(found) < 200


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("losses", [1.0, "x"], "interval.losses.1 is 'x'; expected a valid number"),
        ("samples", [8, 0], "interval.samples.1 is 0; expected greater than or equal to 1"),
        ("samples", [8, 2**63], "interval.samples.1 is 9223372036854775808"),
        ("hits", [1.0, None], "interval.hits.1 is null; expected a valid number"),
        ("skipped", [0, 1], "interval.skipped.0 is 0; expected a valid boolean"),
        ("hits", [1.0], "the lists of interval have different lengths"),
        ("hits", {}, "interval.hits is an object; expected a valid list"),
    ],
)
def test_a_part_of_the_interval_is_named(key: str, values: Any, expected: str) -> None:
    found = state()
    found["interval"][key] = values
    assert (fault(found) or "").startswith(expected)


def mutations() -> Iterator[Any]:
    """Each value of a state, also nested ones, replaced by each invalid one, and each removed."""
    paths = [[key] for key in state()] + [[key, name] for key in ("interval", "identity", "versions") for name in state()[key]]
    for path, value in itertools.product(paths, [*STRANGE, "remove"]):
        found = state()
        place = found if len(path) == 1 else found[path[0]]
        if value == "remove":
            del place[path[-1]]
        else:
            place[path[-1]] = value
        yield found


def test_what_the_schema_lets_through_a_run_can_continue_from() -> None:
    passed = 0
    for found in mutations():
        if fault(found) is None:
            Progress(MovingAverage(0.1)).restore(found)
            passed += 1
    assert 20 < passed < len(list(mutations())) / 4
