"""Triggers: what is due after which step."""

from __future__ import annotations

from typing import Any

import pytest

from vggdist.config.images import AugmentConfig
from vggdist.config.schema import CheckpointConfig, Config, EvaluationConfig, ModelConfig, RunConfig, TrainConfig
from vggdist.training.triggers import Due, Triggers


def triggers(
    steps_per_epoch: int = 10,
    log_every: int = 4,
    evaluate: int = 1,
    save: int = 1,
    save_steps: int | None = None,
    compare_steps: int | None = None,
    **train: Any,
) -> Triggers:
    config = Config(
        run=RunConfig(log_every=log_every, drift_steps=compare_steps),
        train=TrainConfig(**train),
        evaluation=EvaluationConfig(every_epochs=evaluate),
        checkpoint=CheckpointConfig(every_epochs=save, every_steps=save_steps),
    )
    return Triggers.of(config, steps_per_epoch)


def dates(plan: Triggers, what: str) -> list[int]:
    """The steps after which something is due."""
    return [step for step in range(1, plan.total_steps + 1) if getattr(plan.due(step), what)]


def test_the_length_is_epochs_times_steps_per_epoch() -> None:
    assert triggers(epochs=3).total_steps == 30


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 5), (1.25, 13), (0.01, 1), (2.9, 29)])
def test_a_fractional_epoch_ends_within_it_and_counts_a_step_that_has_begun(epochs: float, steps: int) -> None:
    assert triggers(epochs=epochs).total_steps == steps


def test_hundredths_of_an_epoch_of_a_hundred_steps_are_that_many_steps() -> None:
    lengths = [triggers(steps_per_epoch=100, epochs=steps / 100).total_steps for steps in range(1, 1000)]
    assert lengths == list(range(1, 1000))


def test_steps_come_before_epochs() -> None:
    assert triggers(epochs=3, steps=7).total_steps == 7


def test_the_epoch_counts_passes_with_their_fraction() -> None:
    assert [triggers().epoch(step) for step in (0, 5, 10, 25)] == [0, 0.5, 1, 2.5]


def test_evaluations_and_checkpoints_end_their_epochs() -> None:
    plan = triggers(epochs=6, evaluate=2, save=3)
    assert dates(plan, "evaluation") == [20, 40, 60] and dates(plan, "checkpoint") == [30, 60]


@pytest.mark.parametrize("length", [{"epochs": 1.7}, {"steps": 17}])
def test_the_last_step_is_always_evaluated_and_saved(length: dict[str, Any]) -> None:
    plan = triggers(evaluate=5, save=5, log_every=1000, **length)
    assert dates(plan, "evaluation") == dates(plan, "checkpoint") == [17]


def test_zero_evaluates_only_at_the_end() -> None:
    assert dates(triggers(epochs=4, evaluate=0), "evaluation") == [40]


def test_a_report_comes_at_its_interval_and_before_anything_that_takes_time() -> None:
    assert dates(triggers(epochs=2, log_every=4), "report") == [4, 8, 10, 12, 16, 20]


def test_nothing_is_due_between_the_dates() -> None:
    assert triggers(epochs=2).due(3) == Due()


def test_checkpoints_can_come_every_few_steps_instead() -> None:
    assert dates(triggers(epochs=2, save_steps=7), "checkpoint") == [7, 14, 20]


def test_zero_saves_only_at_the_end() -> None:
    assert dates(triggers(epochs=3, save=0), "checkpoint") == [30]


@pytest.mark.parametrize(("steps", "expected"), [(None, [10, 20]), (6, [6, 12, 18]), (0, [])])
def test_ranks_are_compared_each_epoch_or_as_asked(steps: int | None, expected: list[int]) -> None:
    assert dates(triggers(epochs=2, compare_steps=steps), "comparison") == expected


def test_nothing_is_due_before_the_first_step() -> None:
    assert not triggers(compare_steps=1, save_steps=1).due(0).checkpoint


def test_work_counts_the_pixels_of_smaller_images_in_the_first_epochs() -> None:
    config = Config(model=ModelConfig(head="global_max"), augment=AugmentConfig(progressive=((1, 16), (3, 24))))
    plan = Triggers(config, steps_per_epoch=10, total_steps=50)
    expected = {0: 0, 4: 1, 10: 2.5, 14: 2.5 + 2.25, 30: 2.5 + 11.25, 50: 2.5 + 11.25 + 20}
    assert {step: plan.work(step, image_size=32) for step in expected} == expected
    assert Triggers(Config(), 10, 50).work(37, image_size=32) == 37
