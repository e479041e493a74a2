"""A state that a run cannot continue from is found by one look, which names the key."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.states import training_state
from vggdist.checkpoints.schema import TrainingState, fault
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


@pytest.mark.parametrize("key", TrainingState.__annotations__)
def test_a_missing_key_is_named(key: str) -> None:
    found = state()
    del found[key]
    assert fault(found) == f"{key} is missing"


def test_a_key_of_a_later_version_is_let_through() -> None:
    assert fault({**state(), "model": {"name": "vgg11"}}) is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("step", "12", 'step is "12"; expected a whole number from 0 to '),
        ("step", True, "step is true; expected a whole number from 0 to "),
        ("step", 12.0, "step is 12.0; expected a whole number"),
        ("step", -1, "step is -1; expected a whole number from 0 to "),
        ("world_size", 0, "world_size is 0; expected a whole number from 1 to 1048576"),
        ("scaled_for_ranks", 10**9, "scaled_for_ranks is 1000000000; expected a whole number from 1 to 1048576"),
        ("moving_average", "x", 'moving_average is "x"; expected a number or null'),
        ("best_step", [], "best_step is a list; expected a whole number from 0 to .* or null"),
        ("threads", 4, "threads is 4; expected text or null"),
        ("identity", [], "identity is a list; expected an object"),
        ("identity", {"seed": None}, "identity.seed is null; expected text or a whole number or true or false"),
        ("augmentation", {"augment.mixup": 0.1}, "augmentation.augment.mixup is 0.1; expected text"),
        ("training_metrics", {"train/loss": "x" * 10**6}, 'training_metrics.train/loss is "xxx'),
        ("interval", {}, "interval.losses is missing"),
        ("interval", 3, "interval is 3; expected an object or null"),
        ("versions", None, "versions is null; expected an object"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_was_expected(key: str, value: Any, expected: str) -> None:
    found = fault({**state(), key: value})
    assert found is not None and found.startswith(expected.partition(" .* ")[0]) and len(found) < 200


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("losses", [1.0, "x"], 'interval.losses[1] is "x"; expected a number or null'),
        ("samples", [8, 0], "interval.samples[1] is 0; expected a whole number from 1 to "),
        ("samples", [8, 2**63], "interval.samples[1] is 9223372036854775808"),
        ("hits", [1.0, None], "interval.hits[1] is null; expected a number"),
        ("skipped", [0, 1], "interval.skipped[0] is 0; expected true or false"),
        ("hits", [1.0], "the lists of interval have different lengths"),
        ("hits", {}, "interval.hits is an object; expected a list"),
    ],
)
def test_a_part_of_the_interval_is_named(key: str, values: Any, expected: str) -> None:
    found = state()
    found["interval"][key] = values
    assert (fault(found) or "").startswith(expected)


def mutations() -> Iterator[Any]:
    """Each value of a state, also those within, replaced by each strange one, and each removed."""
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
