"""The loss scale and skipped steps change nothing else."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from vggdist.collectives.world import World
from vggdist.config.load import load
from vggdist.training.setup import Training, prepare
from vggdist.training.step import StepOutcome

TINY = [
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--model.batch_norm", "true"),
    *("--model.dropout", "0.3"),
    *("--augment.mixup", "0.4"),
    *("--train.global_batch_size", "16"),
    *("--optimizer.clip_norm", "0.5"),
    *("--run.resume", "never"),
]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def prepared(*flags: str) -> Training:
    return prepare(load("train", [*TINY, *flags]), World())


def arrays(training: Training) -> dict[str, np.ndarray]:
    return {name: array.asnumpy() for name, array in training.state.arrays.items()}


def step(training: Training, number: int) -> StepOutcome:
    plan = training.inputs.plan
    batch = training.inputs.training_view.batch(0, *plan.part(plan.order(0), number, 0))
    return training.step(batch, number, 0.05, plan.num_valid(number), mx.nd.zeros((1,)), measure=True)


def overflow(training: Training, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Put a value into a gradient of the next step, before it is summed over the ranks."""
    reduction = training.step._reduction

    def reduce(flags: mx.nd.NDArray) -> dict[str, mx.nd.NDArray]:
        gradients = reduction(flags)
        gradients["vgg_output_bias"][1] = value
        monkeypatch.setattr(training.step, "_reduction", reduction)
        return gradients

    reduce.offsets, reduce.store_factors, reduce.clear = reduction.offsets, reduction.store_factors, reduction.clear  # type: ignore[attr-defined]
    monkeypatch.setattr(training.step, "_reduction", reduce)


@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--train.accumulation", "2"],
        ["--train.factors", "always", "--optimizer.name", "lars"],
        ["--train.factors", "always", "--optimizer.name", "muon"],
    ],
    ids=" ".join,
)
def test_a_scale_that_is_a_power_of_two_changes_no_bit(how: list[str]) -> None:
    runs = [prepared(*how, "--train.loss_scale", scale) for scale in ("null", "65536", "dynamic")]
    norms = [[step(run, number).gradient_norm.asscalar() for number in range(5)] for run in runs]  # type: ignore[union-attr]
    first, *others = [arrays(run) for run in runs]
    for other in others:
        for name, values in first.items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)
    assert norms[0] == norms[1] == norms[2]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("how", [["--train.nonfinite", "skip"], ["--train.loss_scale", "dynamic"]], ids=" ".join)
def test_a_step_that_overflows_leaves_every_array_as_it_was(
    how: list[str], value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = prepared(*how, "--optimizer.name", "adam", "--optimizer.ema_decay", "0.9")
    assert step(training, 0).finite.asscalar() == 1  # type: ignore[union-attr]
    before = arrays(training)
    overflow(training, monkeypatch, value)
    assert step(training, 1).finite.asscalar() == 0  # type: ignore[union-attr]
    after = arrays(training)
    for name, values in before.items():  # including batch normalisation's statistics, Adam's moments, and averages
        np.testing.assert_array_equal(after[name], values, err_msg=name)
    assert step(training, 2).finite.asscalar() == 1  # type: ignore[union-attr]
    changed = arrays(training)
    assert all((changed[name] != values).any() for name, values in before.items())


def test_where_nothing_can_be_left_out_nothing_is_looked_for() -> None:
    assert step(prepared(), 0).finite is None


def test_an_average_of_the_weights_and_its_evaluation_change_no_bit_of_the_weights() -> None:
    plain, averaged = prepared(), prepared("--optimizer.ema_decay", "0.9")
    for number in range(3):
        step(plain, number), step(averaged, number)
        with averaged.average.in_network():
            pass
    found = arrays(averaged)
    assert len(found) > len(arrays(plain))
    for name, values in arrays(plain).items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
