"""Each check of the self test holds on a CPU, and fails where its claim is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from tests.selftests import TINY
from vggdist.checkpoints.snapshot import Snapshot
from vggdist.collectives.world import World
from vggdist.selftest import claims
from vggdist.selftest.bench import Network, Scale, distance
from vggdist.selftest.claims import Bench
from vggdist.selftest.outcome import Measured
from vggdist.training.setup import Training

Measure = Callable[[Bench], Measured]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(World(), mx.cpu(), TINY)


def same_as_on_cpu(bench: Bench) -> Measured:
    return claims.same_as_on_cpu(bench, TINY.small.changed(dropout=0.0), 2)


CLAIMS: list[Measure] = [
    same_as_on_cpu,
    claims.dropout_follows_the_seed,
    claims.training_repeats,
    claims.continues_from_a_snapshot,
]


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_check_holds_on_a_cpu(claim: Measure, bench: Bench) -> None:
    assert claim(bench).value == 0


@pytest.mark.parametrize("claim", [same_as_on_cpu, claims.training_repeats, claims.continues_from_a_snapshot])
def test_a_device_that_computes_otherwise_the_second_time_is_found(
    claim: Measure, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings, train = [], claims.train

    def differs(training: Training, steps: range) -> None:
        train(training, steps)
        trainings.append(steps)
        if len(trainings) == (3 if claim is claims.continues_from_a_snapshot else 2):
            weight = next(array for name, array in training.state.arrays.items() if name.endswith("_weight"))
            weight[:] = weight * 1.001

    monkeypatch.setattr(claims, "train", differs)
    assert claim(bench).value > 0


def test_dropout_that_follows_no_seed_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unseeded(nn.HybridBlock):
        """Dropout as in cuDNN, whose generator is not reset by the seed."""

        generator = np.random.default_rng(0)

        def __init__(self, rate: float) -> None:
            super().__init__()

        def forward(self, x: mx.nd.NDArray) -> mx.nd.NDArray:
            return x * mx.nd.array(2 * (self.generator.random(x.shape) < 0.5))

    monkeypatch.setattr(claims, "SeededDropout", Unseeded)
    assert claims.dropout_follows_the_seed(bench).value > 0


def test_dropout_whose_masks_are_always_the_same_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.random, "seed", lambda seed, ctx: mx.random._LIB.MXRandomSeed(7))
    assert np.isnan(claims.dropout_follows_the_seed(bench).value)


def test_a_snapshot_that_leaves_an_array_out_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Snapshot.take
    monkeypatch.setattr(Snapshot, "take", lambda self, arrays: take(self, dict(list(arrays.items())[1:])))
    assert np.isnan(claims.continues_from_a_snapshot(bench).value)


class TwoRanks:
    """Rank 0 of two; rank 1 adds correct values, plus ``wrong`` to three of them."""

    rank, size = 0, 2

    def __init__(self, wrong: float) -> None:
        self.wrong = wrong

    def reduce(self, arrays: list[mx.nd.NDArray], name: str) -> None:
        (array,) = arrays
        array += array + 1
        array[5:8] += self.wrong


@pytest.mark.parametrize(("wrong", "count"), [(0.0, 0), (1.0, 3)])
def test_a_sum_that_is_wrong_is_counted(wrong: float, count: int) -> None:
    world: Any = TwoRanks(wrong)
    assert claims.reduction_is_right(Bench(world, mx.cpu(), TINY)).value == count


def test_speed_and_memory_are_reported_with_their_note(bench: Bench) -> None:
    speed, memory = claims.step_time(bench, bench.world), claims.memory(bench)
    assert speed.value > 0 and "vgg16, 32 px: " in speed.note and "images/s" in speed.note
    assert memory.note == "plan: 0.00 GiB"  # 3.6 MB


def test_the_distance_is_a_share_of_the_way() -> None:
    start, end, other = ({"parameter/a": np.array(values, np.float32)} for values in ([0, 0], [3, 4], [3, 3.5]))
    assert distance(other, end, start) == pytest.approx(0.1)
    assert np.isnan(distance(other, start, start))  # nothing was learned: the check is void


def test_a_gpu_is_timed_with_sixty_four_images_and_a_cpu_with_few() -> None:
    gpu, cpu = Scale.of(mx.gpu(0)), Scale.of(mx.cpu())
    assert (gpu.fast.model.name, gpu.fast.image_size, gpu.fast.batch_size) == ("vgg16", 224, 64)
    assert cpu.fast.model == gpu.fast.model and cpu.fast.batch_size == 4 and cpu.full == gpu.full


def test_a_network_of_a_check_is_made_as_a_run_makes_it() -> None:
    config = Network(TINY.small.model, 16, 10, 8).config("gpu", loss_scale=2.0)
    assert (config.run.device, config.train.loss_scale, config.train.global_batch_size) == ("gpu", 2, 8)
    assert config.run.resume == "never"
