"""N ranks train as one rank does with the same global batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rank_pool import call

SMALL = [
    "--run.resume",
    "never",
    "--model.batch_norm",
    "false",
    "--model.dropout",
    "0",
    "--model.stages",
    "[[1, 8], [1, 16]]",
    "--model.hidden",
    "[32]",
    "--train.steps",
    "10",
    "--train.global_batch_size",
    "64",
    "--optimizer.momentum",
    "0.9",
    "--optimizer.weight_decay",
    "1e-3",
    "--schedule.name",
    "constant",
]
Parameters = dict[str, np.ndarray]


def trained(launcher: str, size: int, folder: Path, *flags: str) -> Parameters:
    path = folder / f"{size}.npz"
    results = call(launcher, size, "parameters_after_training", folder, flags=[*SMALL, *flags], save_to=str(path))
    assert len({rank["sha256"] for rank in results}) == 1, "the ranks hold different parameters"
    assert results[0]["change"] > 1e-2, "nothing was learned: the test is void"
    return dict(np.load(path))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Parameters]:
    """What one rank trains with some flags; trained once for all tests that compare with it."""
    known: dict[tuple[str, ...], Parameters] = {}

    def alone(flags: list[str]) -> Parameters:
        if tuple(flags) not in known:
            known[tuple(flags)] = trained("python", 1, tmp_path_factory.mktemp("alone"), *flags)
        return known[tuple(flags)]

    return alone


EVERYTHING = [
    "--augment.pad_crop",
    "1",
    "--augment.mixup",
    "0.4",
    "--train.label_smoothing",
    "0.1",
    "--optimizer.clip_norm",
    "0.5",
    "--train.accumulation",
    "4",
]
FACTORS, BUCKETS = ["--train.factors", "always"], ["--train.bucket_cap_mb", "0.001"]
PADDED_LAST_BATCH = ["--optimizer.name", "lars", "--train.steps", "25"]  # an epoch has 23 steps

MUON = ["--optimizer.name", "muon", "--optimizer.groups", "[['output_*', 0.5, 1], ['*_bias', 2, 0]]"]


@pytest.mark.parametrize(
    ("launcher", "size", "flags", "how"),
    [
        pytest.param("horovodrun --gloo", 2, [], [], id="sgd-on-gloo"),
        pytest.param("horovodrun --gloo", 2, [], ["--train.bucket_cap_mb", "0"], id="each-gradient-by-itself"),
        pytest.param("horovodrun --gloo", 2, [], FACTORS, id="factors"),
        pytest.param("horovodrun --gloo", 2, EVERYTHING, [], id="mixup-clipping-accumulation"),
        pytest.param("horovodrun --gloo", 2, PADDED_LAST_BATCH, [], id="lars-with-a-padded-last-batch"),
        pytest.param("horovodrun --gloo", 2, MUON, FACTORS, id="muon-with-groups-factors"),
        # One after the other, so that they share a pool.
        pytest.param("horovodrun --gloo", 4, [], [], id="sgd-on-four-ranks"),
        pytest.param("horovodrun --gloo", 4, EVERYTHING, [*FACTORS, *BUCKETS], id="mixup-clipping-accumulation-factors"),
        pytest.param("mpirun", 2, [], [], id="sgd-on-mpi"),
        pytest.param("mpirun", 2, PADDED_LAST_BATCH, FACTORS, id="lars-with-a-padded-last-batch-factors-on-mpi"),
    ],
)
def test_two_and_four_ranks_equal_one_rank_with_the_same_global_batch(
    launcher: str, size: int, flags: list[str], how: list[str], alone: Callable[[list[str]], Parameters], tmp_path: Path
) -> None:
    many = trained(launcher, size, tmp_path, *flags, *how)
    for name, values in alone(flags).items():
        np.testing.assert_allclose(many[name], values, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("flags", "how"),
    [([], []), (EVERYTHING, []), (EVERYTHING, FACTORS)],
    ids=["sgd", "mixup-clipping-accumulation", "mixup-clipping-accumulation-factors"],
)
def test_three_ranks_continue_what_two_began_though_they_cannot_share_the_batch_evenly(
    flags: list[str], how: list[str], alone: Callable[[list[str]], Parameters], tmp_path: Path
) -> None:
    one = alone(flags)
    begun = [*SMALL, *flags, *how, "--run.overwrite", "true", "--train.steps", "4"]
    call("horovodrun --gloo", 2, "training_that_is_stopped", tmp_path, flags=begun, stop_at=None)
    many = trained("horovodrun --gloo", 3, tmp_path, *flags, *how, "--run.resume", "auto")
    assert max(float(np.abs(one[name] - many[name]).max()) for name in one) > 0, "it was not trained again"
    for name, values in one.items():
        np.testing.assert_allclose(many[name], values, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("how", [[], BUCKETS, [*BUCKETS, *FACTORS]], ids=["together", "buckets", "buckets-and-factors"])
def test_three_ranks_repeat_bit_for_bit(how: list[str], tmp_path: Path) -> None:
    flags = [*SMALL, "--train.global_batch_size", "66", "--model.batch_norm", "true", "--model.dropout", "0.5", *how]
    runs = [call("horovodrun --gloo", 3, "parameters_after_training", tmp_path, flags=flags) for _ in range(2)]
    assert len({rank["sha256"] for run in runs for rank in run}) == 1


def test_buckets_arrive_while_the_backward_pass_goes_on(tmp_path: Path) -> None:
    def early(cap: str, patience: float, *more: str) -> list[str]:
        flags = [*SMALL, "--train.bucket_cap_mb", cap, *more]
        arguments: dict[str, Any] = {"flags": flags, "patience": patience}
        first, second = call("horovodrun --gloo", 2, "gradients_before_the_end_of_a_backward_pass", tmp_path, **arguments)
        assert first == second
        return first

    later = [f"vgg_{layer}_{kind}" for layer in ("output", "hidden1", "stage2_conv1") for kind in ("bias", "weight")]
    assert early("0", patience=60) == later
    assert early(".inf", patience=2) == []
    # Factors, and a convolution that is a matrix product: graph nodes of their own, which MXNet would compute last.
    products = ["--model.stages", "[[1, 8], [1, 256], [1, 256]]", "--train.global_batch_size", "128", *FACTORS]
    own = [f"vgg_{layer}_{kind}" for layer in ("stage3_conv1", "stage2_conv1") for kind in ("bias", "weight")]
    assert early("0", 60, *products) == [*4 * ["factors"], *own]


def test_two_ranks_equal_one_where_a_convolution_is_a_matrix_product(tmp_path: Path) -> None:
    flags = [*SMALL, "--model.stages", "[[1, 8], [1, 256], [1, 256]]", "--train.global_batch_size", "128"]

    def last(launcher: str, size: int, products: int, *more: str) -> Parameters:
        path = tmp_path / "parameters.npz"
        results = call(launcher, size, "parameters_after_training", tmp_path, flags=[*flags, *more], save_to=str(path))
        assert [rank["products"] for rank in results] == [products] * size and results[0]["change"] > 1e-2
        return dict(np.load(path))

    one, two = last("python", 1, 1), last("horovodrun --gloo", 2, 1)
    convolutions = last("python", 1, 0, "--train.accumulation", "4")  # 32 samples at once
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(convolutions[name], values, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("how", [[], FACTORS], ids=["gradients", "factors"])
def test_fp16_compression_stays_near_fp32(how: list[str], alone: Callable[[list[str]], Parameters], tmp_path: Path) -> None:
    exact = alone([])
    compressed = trained("horovodrun --gloo", 2, tmp_path, "--train.compression", "fp16", *how)
    difference = max(float(np.abs(exact[name] - compressed[name]).max()) for name in exact)
    assert 0 < difference < 1e-3
