"""Which part selects the best checkpoint, when a run ends, and that the test set is then evaluated once; one rank."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from vggdist.checkpoints.start import Start
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.processes.signals import StopRequests
from vggdist.reporting.evaluation_images import Mistake
from vggdist.reporting.report import Report
from vggdist.training import run, trainer
from vggdist.training.run import how_to_continue
from vggdist.training.setup import Training, prepare
from vggdist.training.trainer import Trainer

NETWORK = ["--model.name", "custom", "--model.stages", "[[1, 4]]", "--model.hidden", "[]", "--data.name", "digits"]
SMALL = [*NETWORK, "--train.global_batch_size", "100", "--run.name", "a", "--run.log_every", "1000", "--data.threads", "1"]
STILL = ["--optimizer.learning_rate", "1e-12"]  # no evaluation is better than the first
HELD_OUT = ["--data.validation", "0.1"]
STEPS = 13
"""Steps of an epoch of the 1,295 training images."""


class Noted(Report):
    """Stores the reports."""

    def __init__(self) -> None:
        self.evaluations: list[tuple[int, str, dict[str, float]]] = []
        self.worst: list[tuple[int, int]] = []
        self.best_values: list[float | None] = []
        self.trained: list[dict[str, float]] = []

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self.trained.append(metrics)

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float], confusion: np.ndarray) -> None:
        self.evaluations.append((step, part, metrics))

    def best(self, step: int, metric: str, value: float | None) -> None:
        self.best_values.append(value)

    def mistakes(self, step: int, worst: Any) -> None:
        assert all(isinstance(one, Mistake) for one in worst)
        self.worst.append((step, len(worst)))

    def of(self, part: str) -> list[int]:
        """The steps after which a part was evaluated."""
        return [step for step, name, _ in self.evaluations if name == part]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)


def prepared(*flags: str, start: Start | None = None) -> Training:
    return prepare(load("train", [*SMALL, *flags]), World(), start=start)


def trained(*flags: str, start: Start | None = None) -> tuple[Training, Noted]:
    training, report = prepared(*flags, start=start), Noted()
    Trainer(training, report, StopRequests(0, 1)).train()
    return training, report


def test_the_best_checkpoint_goes_by_the_validation_set_and_the_test_set_is_measured_once_at_the_end() -> None:
    training, report = trained(*HELD_OUT, "--train.epochs", "3")
    assert report.of("validation") == [STEPS, 2 * STEPS, 3 * STEPS] and report.of("eval") == [3 * STEPS]
    values = [metrics["validation/top1(%)"] for _, part, metrics in report.evaluations if part == "validation"]
    assert training.state.progress.best_value == max(values)
    assert report.best_values == [max(values[: count + 1]) for count in range(3)]
    assert training.store.best_step() == training.state.progress.best_step
    assert training.is_finished and not training.state.is_out_of_patience


def test_without_a_validation_set_the_test_set_takes_its_place_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        training, report = trained("--train.epochs", "2")
    assert report.of("eval") == [15, 30] and report.of("validation") == [] and training.inputs.selection_part == "eval"
    assert caplog.text.count("no validation set (data.validation): the test set selects the best checkpoint") == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        prepared(*HELD_OUT, "--run.name", "b")
    assert "no validation set" not in caplog.text


def test_the_worst_mistakes_are_of_the_test_set_at_the_end() -> None:
    training, report = trained(*HELD_OUT, *STILL, "--train.epochs", "1")
    assert report.worst == [(STEPS, 24)]


def test_a_run_ends_when_its_patience_does_and_measures_the_test_set_then() -> None:
    training, report = trained(*HELD_OUT, *STILL, "--train.epochs", "9", "--train.patience", "2")
    assert training.state.progress.best_step == STEPS and training.state.progress.step == 3 * STEPS
    assert report.of("validation") == [STEPS, 2 * STEPS, 3 * STEPS] and report.of("eval") == [3 * STEPS]
    assert training.state.is_out_of_patience and training.is_finished
    assert training.store.complete_steps()[-1] == 3 * STEPS


def test_with_more_patience_it_goes_on_and_forgets_the_earlier_end() -> None:
    first, _ = trained(*HELD_OUT, *STILL, "--train.epochs", "4", "--train.patience", "1")
    assert first.state.progress.step == 2 * STEPS and "eval/loss" in first.state.progress.evaluation_metrics
    again, report = trained(*HELD_OUT, *STILL, "--train.epochs", "4", "--train.patience", "2", start=None)
    assert report.of("validation") == [3 * STEPS] and report.of("eval") == [3 * STEPS] and again.is_finished


@pytest.mark.parametrize(
    ("length", "shorter"),
    [
        (["--train.epochs", "3"], ["--train.epochs", "9", "--train.patience", "1"]),
        (["--train.epochs", "3"], ["--train.epochs", "1"]),
        (["--train.steps", "20"], ["--train.steps", "10"]),
    ],
)
def test_where_a_setting_ends_a_run_that_was_stopped_only_the_test_set_is_measured(
    length: list[str], shorter: list[str]
) -> None:
    ended, _ = trained(*HELD_OUT, *STILL, *length)
    ended.state.progress.drop_metrics(["eval"])  # as after a stop at this step
    start = Start({name: array.asnumpy() for name, array in ended.state.arrays.items()}, ended.checkpoint_state())
    training, report = trained(*HELD_OUT, *STILL, *shorter, start=start)
    assert report.of("eval") == [ended.state.progress.step] and not report.of("validation") and not report.trained
    assert training.is_finished


@pytest.mark.parametrize(
    ("length", "key"), [(["--train.epochs", "1"], "train.epochs"), (["--train.steps", "3"], "train.steps")]
)
def test_a_run_that_came_to_its_end_names_the_setting_of_its_length(length: list[str], key: str) -> None:
    training, _ = trained(*length)
    assert training.is_finished and how_to_continue(training.state) == f"; raise {key} to train longer"


def test_a_checkpoint_is_written_when_the_newest_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--train.steps", "19", "--checkpoint.every_minutes", "3", "--checkpoint.keep_last", "99"]
    training = prepared(*flags)
    minute = SimpleNamespace(monotonic=lambda: 60.0 * training.state.progress.step)  # the time of a step
    monkeypatch.setattr(trainer, "time", minute)
    Trainer(training, Noted(), StopRequests(0, 1)).train()
    # Three minutes after the start or the newest one, then the flag goes with a step and is read after the next.
    # There are 15 steps in an epoch.
    assert training.store.complete_steps() == [5, 10, 15, 19]


def test_another_metric_for_the_best_checkpoint_forgets_the_value_of_the_former(caplog: pytest.LogCaptureFixture) -> None:
    first, _ = trained("--train.epochs", "1", "--checkpoint.best_metric", "top1")
    assert first.state.progress.best_step == 15
    with caplog.at_level(logging.WARNING):
        again, _ = trained("--train.epochs", "2", "--checkpoint.best_metric", "auc")
    assert again.state.progress.best_step == 30 and (again.state.progress.best_value or 0) <= 1
    assert "checkpoint.best_metric: 'top1' before, 'auc' from step 15 on" in caplog.text


def test_patience_without_evaluations_is_refused() -> None:
    with pytest.raises(RequestError, match="train.patience is 2.0; expected null with evaluation.every_epochs 0"):
        load("train", [*SMALL, "--train.patience", "2", "--evaluation.every_epochs", "0"])


def test_layer_norms_are_reported_where_they_are_asked_for() -> None:
    _, report = trained("--run.layer_norms", "true", "--train.steps", "2")
    metrics = report.trained[-1]
    gradients = [value for name, value in metrics.items() if name.startswith("gradient_norm/")]
    assert {"gradient_norm/stage1_conv1", "weight_norm/output"} <= {*metrics}
    assert np.linalg.norm(gradients) == pytest.approx(metrics["optim/grad_norm"], rel=1e-5)
    _, report = trained("--train.steps", "3")
    assert not any("_norm/" in name for name in report.trained[-1])


def test_balanced_class_weights_give_each_class_the_same_share_of_the_loss(tmp_path: Path) -> None:
    training = prepared("--train.class_weights", "balanced")
    weights = training.step._objective.class_weights.data().asnumpy()
    counts = np.bincount(training.inputs.data.train.labels, minlength=10)
    np.testing.assert_allclose(weights * counts, np.full(10, counts.sum() / 10), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weight_of_a_sample_is_that_of_its_class_and_of_its_mixup_partner_s(smoothing: float) -> None:
    training = prepared("--train.class_weights", "balanced", "--train.label_smoothing", str(smoothing))
    objective = training.step._objective
    class_weights = np.arange(1, 11, dtype=np.float32)
    objective.class_weights.set_data(mx.nd.array(class_weights))
    images, labels, partners = training.inputs.data.train.images[:4], np.array([0, 3, 5, 9]), np.array([0, 4, 5, 1])  # type: ignore[attr-defined]
    share, mask = np.array([1.0, 0.25, 0.5, 0.7], np.float32), np.array([1, 1, 1, 0], np.float32)
    arrays = [
        mx.nd.array(one, dtype=one.dtype) for one in (images, labels.astype(np.int32), partners.astype(np.int32), share, mask)
    ]
    logarithms = mx.nd.log_softmax(training.model.forward(arrays[0])).asnumpy().astype(np.float64)

    def cross_entropy(classes: np.ndarray) -> np.ndarray:
        target = (1 - smoothing) * np.eye(10)[classes] + smoothing / 10
        return class_weights[classes] * -(target * logarithms).sum(axis=1)

    expected = mask * (share * cross_entropy(labels) + (1 - share) * cross_entropy(partners))
    assert float(objective(*arrays)[1].asscalar()) == pytest.approx(expected.sum(), rel=1e-5)


def test_images_of_other_sizes_need_convolutions_that_suit_them() -> None:
    """At 8 px the last convolution would be a matrix product, which suits one size only."""
    flags = ["--model.stages", "[[1, 4], [1, 256], [1, 256]]", "--model.head", "global_max", "--train.steps", "1"]
    training, _ = trained(*flags, "--augment.progressive", "[[1, 4]]")
    assert training.is_finished


def test_a_progressive_side_above_the_image_size_is_refused() -> None:
    with pytest.raises(RequestError, match="augment.progressive has side 9; it must be at most data.image_size 8"):
        prepared("--model.head", "global_max", "--augment.progressive", "[[1, 9]]")


def test_the_remaining_time_is_estimated_from_the_sizes_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--model.head", "global_max", "--augment.progressive", "[[1, 4]]"]
    training = prepared(*sizes, "--train.epochs", "2")
    monkeypatch.setattr(run, "RunReport", lambda *_, work, **__: work)
    handler: Any = SimpleNamespace()
    work: Any = run.Run(training.config, handler, StopRequests(0, 1), handler, 0.0)._report(training, is_new=False)
    assert [work(step) for step in (15, 30)] == [15 / 4, 15 / 4 + 15]
