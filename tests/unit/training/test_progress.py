"""Progress of a run, and its best evaluation."""

from __future__ import annotations

import json

import pytest

from vggdist.training.metrics import MovingAverage
from vggdist.training.progress import Progress, metric_name


def progress(**values: float) -> Progress:
    metrics = {metric_name("eval", key): value for key, value in values.items()}
    return Progress(MovingAverage(0.1), evaluation_metrics=metrics)


def evaluated(metric: str, course: list[float]) -> tuple[Progress, list[bool]]:
    """Progress after evaluations, one in each step, and which of them were the best so far."""
    run, better = progress(), []
    for run.step, value in enumerate(course, start=1):
        run.evaluation_metrics = {metric_name("eval", metric): value}
        better.append(run.update_best("eval", metric))
    return run, better


def test_metric_names_carry_part_and_unit() -> None:
    names = [metric_name("eval", "top1"), metric_name("train_set", "top5"), metric_name("eval", "loss")]
    assert names == ["eval/top1(%)", "train_set/top5(%)", "eval/loss"]


@pytest.mark.parametrize("metric", ["top1", "top5", "macro_f1", "auc"])
def test_the_best_score_is_the_highest(metric: str) -> None:
    run, better = evaluated(metric, [0.5, 0.7, 0.6])
    assert better == [True, True, False] and (run.best_value, run.best_step) == (0.7, 2)


def test_the_best_loss_is_the_lowest() -> None:
    run, better = evaluated("loss", [0.5, 0.7, 0.4])
    assert better == [True, False, True] and (run.best_value, run.best_step) == (0.4, 3)


def test_of_equal_evaluations_the_first_stays_the_best() -> None:
    assert evaluated("top1", [0.5, 0.5])[0].best_step == 1


def test_a_value_that_is_no_number_does_not_replace_the_best() -> None:
    assert evaluated("loss", [0.5, float("nan")])[0].best_step == 1


def test_a_number_is_better_than_a_first_value_that_is_none() -> None:
    run, better = evaluated("loss", [float("nan"), 0.5, 0.6])
    assert (run.best_value, run.best_step) == (0.5, 2) and better == [False, True, False]


def test_metrics_of_an_earlier_end_are_forgotten_and_others_stay() -> None:
    run = progress(top1=81.5)
    run.evaluation_metrics |= {"eval_train/top1(%)": 99.0, "validation/loss": 0.5}
    run.drop_metrics(["eval"])
    assert run.evaluation_metrics == {"eval_train/top1(%)": 99.0, "validation/loss": 0.5}


def test_progress_survives_its_checkpoint() -> None:
    run = progress(top1=81.5, loss=0.3)
    run.step, run.training_metrics = 12, {"train/loss": 1 / 3}
    run.moving_average.update(2.5)
    run.update_best("eval", "top1")
    again = Progress(MovingAverage(0.1))
    again.restore(json.loads(json.dumps(run.as_state())))
    assert again == run
