"""The learning rate is a pure function of the step and goes where the configuration says."""

import itertools

import pytest

from vggdist.config.errors import RequestError
from vggdist.config.schema import OptimizerConfig, ScheduleConfig
from vggdist.training.schedule import Schedule, scaled_learning_rate

NAMES = ("constant", "step", "cosine", "polynomial", "one_cycle")


def schedule(name, warmup_epochs=0.0, steps_per_epoch=10, total_steps=200, **options):
    milestones = (5, 15) if name == "step" else ()
    config = ScheduleConfig(**{"name": name, "milestones": milestones, "warmup_epochs": warmup_epochs} | options)
    return Schedule(config, peak=0.4, steps_per_epoch=steps_per_epoch, total_steps=total_steps)


def test_constant_is_the_peak_at_every_step():
    assert {schedule("constant")(step) for step in range(200)} == {0.4}


def test_step_falls_by_gamma_at_each_milestone_and_only_there():
    rate = schedule("step")
    assert [rate(step) for step in (0, 49, 50, 149, 150, 199)] == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


def test_a_milestone_of_a_fraction_of_an_epoch_falls_on_its_step():
    rate = schedule("step", steps_per_epoch=30, milestones=(0.1,))
    assert rate(2) == 0.4 and rate(3) == pytest.approx(0.04)


def test_milestones_count_the_warmup():
    assert schedule("step", warmup_epochs=2)(50) == pytest.approx(0.04)


def test_cosine_starts_at_the_peak_halves_midway_and_ends_at_the_final_factor():
    rate = schedule("cosine", final_factor=0.1)
    assert [rate(step) for step in (0, 100, 200)] == pytest.approx([0.4, 0.4 * 0.55, 0.04])


def test_polynomial_follows_its_power():
    rate = schedule("polynomial", power=2.0)
    assert [rate(step) for step in (0, 100, 150, 200)] == pytest.approx([0.4, 0.1, 0.025, 0])


def test_one_cycle_rises_from_a_25th_to_the_peak_and_falls_to_the_final_factor():
    rate = schedule("one_cycle", rise=0.3, final_factor=0.01)
    assert [rate(step) for step in (0, 60, 200)] == pytest.approx([0.4 / 25, 0.4, 0.004])
    rates = [rate(step) for step in range(201)]
    assert rates[:61] == sorted(rates[:61]) and rates[60:] == sorted(rates[60:], reverse=True)


@pytest.mark.parametrize("name", ["cosine", "polynomial", "one_cycle"])
def test_the_last_step_is_not_spent_at_rate_zero_but_the_end_is_zero(name):
    rate = schedule(name)
    assert 0 < rate(199) < 0.001 and rate(200) == pytest.approx(0, abs=1e-12) and rate(1000) == rate(200)


@pytest.mark.parametrize("name", NAMES)
def test_warmup_rises_linearly_from_its_factor_and_meets_the_course(name):
    rate, course = schedule(name, warmup_epochs=2, warmup_factor=0.1), schedule(name, total_steps=180)
    assert rate(0) == pytest.approx(0.1 * course(0)) and rate(10) == pytest.approx(0.55 * course(0))
    assert rate(20) == pytest.approx(course(0))


@pytest.mark.parametrize("name", ["constant", "cosine", "polynomial", "one_cycle"])
def test_no_jump_between_steps(name):
    rate = schedule(name, warmup_epochs=2.55)
    assert max(abs(rate(a) - rate(b)) for a, b in itertools.pairwise(range(210))) < 0.4 / 20


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_of_a_step_does_not_depend_on_which_were_asked_before(name):
    forward, backward = schedule(name, warmup_epochs=1), schedule(name, warmup_epochs=1)
    expected = [forward(step) for step in range(200)]
    assert [backward(step) for step in reversed(range(200))] == expected[::-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_training_of_one_step_has_a_positive_rate(name):
    assert schedule(name, total_steps=1)(0) > 0


def test_warmup_over_the_whole_training_is_allowed_and_longer_is_refused():
    assert schedule("cosine", warmup_epochs=20)(199) < 0.4
    with pytest.raises(RequestError, match=r"schedule\.warmup_epochs is 20\.1, which is 201 steps.*has 200"):
        schedule("cosine", warmup_epochs=20.1)


def test_the_learning_rate_scales_with_the_ranks_only_when_asked():
    assert scaled_learning_rate(OptimizerConfig(learning_rate=0.1), 8) == 0.1
    assert scaled_learning_rate(OptimizerConfig(learning_rate=0.1, scale_learning_rate=True), 8) == pytest.approx(0.8)
