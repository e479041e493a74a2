"""A training with pretrained weights: what it loads, what it freezes, and how it continues."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from vggdist.collectives.world import World
from vggdist.config.data_sets import DATA_SETS, IMAGENET
from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.models.model import Model
from vggdist.training.setup import Training, prepare

SHAPE = ["--model.name", "custom", "--model.stages", "[[1, 4], [1, 6]]", "--model.hidden", "[8]", "--model.batch_norm", "true"]
FLAGS = ["--run.name", "new", *SHAPE, "--model.dropout", "0", "--train.global_batch_size", "16"]
SGD = ["--optimizer.name", "sgd", "--optimizer.momentum", "0", "--optimizer.weight_decay", "0"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def training(*flags: str) -> Training:
    return prepare(load("train", [*FLAGS, *flags]), World())


def steps(one: Training, count: int = 3) -> None:
    for number in range(count):
        batch = one.inputs.training_view.batch(0, *one.inputs.plan.part(one.inputs.plan.order(0), number, 0))
        one.step(batch, number, 0.1, len(batch.labels), mx.nd.zeros((3,)), measure=False)


def values(one: Training) -> dict[str, np.ndarray]:
    return {name: parameter.data().asnumpy() for name, parameter in one.model.parameters.items()}


def checkpoint(one: Training) -> Path:
    arrays = [(name, array.asnumpy()) for name, array in one.state.arrays.items()]
    return one.store.save(arrays, {**one.checkpoint_state(), "interval": None})


@pytest.fixture
def earlier(folder: Path) -> Path:
    """A run with one checkpoint, in which no array has its initial value."""
    one = training("--run.name", "earlier", "--run.seed", "5", "--augment.normalize", "computed", "--data.held_out", "0.5")
    steps(one)
    checkpoint(one)
    return folder / "runs" / "earlier"


@pytest.fixture
def params(folder: Path) -> Path:
    """A Gluon file of a network for images of three channels and nine classes."""
    flags = ["--run.name", "file", "--run.seed", "6", "--data.name", "synthetic", "--data.synthetic_classes", "9"]
    one = training(*flags, "--data.image_size", "8")
    one.model.network.save_parameters(str(folder / "file.params"))
    return folder / "file.params"


def test_a_run_of_ours_gives_all_layers_its_normalisation_and_its_head(
    earlier: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        one = training("--model.pretrained", str(earlier))
    stored = dict(np.load(next((earlier / "checkpoints").glob("step-*")) / "arrays.npz"))
    assert all(np.array_equal(stored[f"parameter/{name}"], value) for name, value in values(one).items())
    assert one.model.spec.mean != DATA_SETS["digits"].mean and one.model.spec.mean[0] == pytest.approx(0.305, abs=0.01)
    rows = "stage1.conv1, stage2.conv1, hidden1, output"
    assert f"from {earlier}/checkpoints/step-00000000: {rows}" in caplog.text
    assert "images are normalised as for these weights: mean (0.3" in caplog.text and "not used" not in caplog.text
    assert list(one.state.loaded) == rows.split(", ")


def test_other_classes_of_the_same_number_get_a_new_head(earlier: Path) -> None:
    flags = ["--data.name", "synthetic", "--data.channels", "1", "--data.image_size", "8"]
    one = training("--model.pretrained", str(earlier), *flags)
    assert list(one.state.loaded) == ["stage1.conv1", "stage2.conv1", "hidden1"]
    assert one.model.spec.architecture.pretrained is None  # the checkpoint has the weights


def test_a_file_gives_imagenet_s_normalisation_and_the_rest_begins_as_without(
    params: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found, plain = (training(*more, "--data.channels", "3") for more in (["--model.pretrained", str(params)], []))
    assert (found.model.spec.mean, found.model.spec.std) == IMAGENET != (plain.model.spec.mean, plain.model.spec.std)
    new, initial = values(found), values(plain)
    assert np.array_equal(new["vgg_output_weight"], initial["vgg_output_weight"]) and new["vgg_output_weight"].shape == (10, 8)
    assert not np.array_equal(new["vgg_hidden1_weight"], initial["vgg_hidden1_weight"])
    assert "initialised, not pretrained: output (" in caplog.text
    assert "the shape (9, 8), but output has (10, 8)" in caplog.text and "not used from the file: " in caplog.text


def test_frozen_stages_keep_every_bit_and_take_no_part_in_the_step(earlier: Path) -> None:
    one = training("--model.pretrained", str(earlier), "--model.freeze", "1", "--optimizer.name", "adam")
    before = values(one)
    steps(one)
    frozen = {name for name in before if "stage1" in name}
    same = {name for name, value in values(one).items() if np.array_equal(value, before[name])}
    assert same == frozen and len(frozen) == 5  # the running statistics, too
    assert not [name for name in one.step._trained if name in frozen]
    assert len(one.step._statistics) == 2 and len(one.step._trained) == 7
    arrays = one.state.arrays
    assert {f"parameter/{name}" for name in before} < arrays.keys()  # a checkpoint has all of them
    assert not [name for name in arrays if name.startswith("optimizer/") and "stage1" in name]


@pytest.mark.parametrize("onednn", ["float32", None])
def test_frozen_normalisation_computes_in_training_what_it_computes_in_use(onednn: str | None, earlier: Path) -> None:
    spec = training("--model.pretrained", str(earlier), "--model.freeze", "2").model.spec
    model = Model(spec, mx.cpu(), seed=1, onednn=onednn)
    images = mx.nd.array(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)), dtype="uint8")
    expected = model.forward(images).asnumpy()
    with mx.autograd.record():
        found = model.forward(images).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_was_loaded_is_updated_by_a_share_of_the_learning_rate(params: Path) -> None:
    flags = ["--data.channels", "3", "--model.pretrained", str(params), *SGD]
    slow, fast = training(*flags, "--optimizer.backbone_rate", "0.125"), training(*flags)
    before = values(slow)
    for one in (slow, fast):
        steps(one, 1)
    for name in fast.step._trained:
        moved = [values(one)[name] - before[name] for one in (fast, slow)]
        factor = 1 if "output" in name else 0.125
        np.testing.assert_allclose(moved[1], factor * moved[0], rtol=1e-3, atol=1e-7)
        assert np.abs(moved[0]).max() > 1e-6


def test_a_run_continues_without_the_file_with_the_same_layers_at_the_same_rates(params: Path) -> None:
    flags = ["--data.channels", "3", "--model.pretrained", str(params), "--optimizer.backbone_rate", "0.1"]
    one = training(*flags, "--model.freeze", "1")
    steps(one)
    checkpoint(one)
    params.unlink()
    again = training(*flags, "--model.freeze", "1")
    assert list(again.state.loaded) == list(one.state.loaded) == ["stage1.conv1", "stage2.conv1", "hidden1"]
    assert again.model.spec == one.model.spec and again.step._optimizer._factors == one.step._optimizer._factors
    assert all(np.array_equal(value, values(one)[name]) for name, value in values(again).items())
    with pytest.raises(RequestError, match=r"the checkpoint's model\.freeze is 1, this run's is 0"):
        training(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [],
            r"none of its layers matches: \S+ in the file .* \(4, 3, 3, 3\), but stage1\.conv1 has \(4, 1, 3, 3\)",
        ),
        (
            ["--data.channels", "3", "--model.stages", "[[1, 4], [2, 6]]", "--model.freeze", "2"],
            r"model\.freeze freezes stage2\.conv2, which \S+file\.params does not have: the file has another number of",
        ),
        (["--data.channels", "3", "--model.freeze", "3"], r"model\.freeze is 3, and the network has 2 stages"),
    ],
)
def test_what_does_not_fit_is_refused(flags: list[str], message: str, params: Path) -> None:
    with pytest.raises(RequestError, match=message):
        training("--model.pretrained", str(params), *flags)


def test_a_run_of_ours_that_does_not_fit_is_refused(earlier: Path) -> None:
    with pytest.raises(RequestError, match=r"earlier\S*: none of its layers matches"):
        training("--model.pretrained", str(earlier), "--data.channels", "3", "--model.stages", "[[1, 5], [1, 7]]")


def test_a_run_that_began_without_weights_is_not_continued_with_some(params: Path) -> None:
    checkpoint(training("--data.channels", "3"))
    with pytest.raises(RequestError, match=r"the run began without model\.pretrained \S+file\.params; remove it, or"):
        training("--data.channels", "3", "--model.pretrained", str(params))


@pytest.mark.parametrize("flags", [["--model.freeze", "1"], ["--optimizer.backbone_rate", "0.1"]])
def test_what_makes_no_sense_without_weights_is_refused(flags: list[str]) -> None:
    with pytest.raises(RequestError, match="without model.pretrained"):
        training(*flags)
