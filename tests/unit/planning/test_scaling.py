"""The prediction follows from its assumptions, and has the limits that it must have."""

from __future__ import annotations

import math

import pytest

from vggdist.config.schema import ModelConfig
from vggdist.models.layers import Layer, describe
from vggdist.planning.reduction import Algorithm, Cluster, Link
from vggdist.planning.scaling import BACKWARD_SHARE, Gradient, Workload, reduced_at, step_seconds, worker_counts

VGG16 = describe(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000)
CLUSTER = Cluster(4, Link(5.7e-6, 12e9), Link(9.6e-6, 2.5e9))
BOTH: tuple[Algorithm, ...] = ("ring", "hierarchical")


def workload(overlap: bool = True, seconds: float = 0.5, threshold: float = 64 * 2**20) -> Workload:
    return Workload(VGG16, seconds, 4, threshold, overlap=seconds * BACKWARD_SHARE if overlap else 0)


def test_a_gradient_is_ready_when_the_backward_pass_is_through_its_layer() -> None:
    layers = [
        Layer("stage1.conv1", "convolution", (1, 1, 1), parameters=10, flops=300),
        Layer("head", "flatten", (1,)),
        Layer("output", "dense", (1,), parameters=5, flops=100),
    ]
    # 3 s: 1 s forward, 2 s backward, a quarter of which is the output's.
    assert Workload(layers, 3.0, 2, 0, overlap=2.0).gradients() == [
        Gradient(pytest.approx(1.5), 10),
        Gradient(pytest.approx(3.0), 20),
    ]
    assert {gradient.ready for gradient in Workload(layers, 3.0, 2, 0, overlap=0).gradients()} == {3.0}


def test_vgg16_s_largest_gradient_is_ready_early_in_the_backward_pass() -> None:
    gradients = workload().gradients()
    largest = max(gradients, key=lambda gradient: gradient.num_bytes)
    assert largest.num_bytes == 4 * 4096 * (512 * 49 + 1) and largest.ready < 0.5 / 3 * 1.02
    assert sum(gradient.num_bytes for gradient in gradients) == 4 * 138_357_544


def test_gradients_that_are_ready_travel_together_as_far_as_the_buffer_holds() -> None:
    sent: list[float] = []

    def seconds(num_bytes: float) -> float:
        sent.append(num_bytes)
        return 1.0

    gradients = [Gradient(0.5, 3), Gradient(0.6, 2), Gradient(0.7, 2), Gradient(0.8, 9), Gradient(4.0, 1)]
    # At 0.5 only the first is ready; at 1.5 two of the next three fit into 8; the 9 goes alone; the last is waited for.
    assert reduced_at(gradients, 8, seconds) == pytest.approx(5.0) and sent == [3, 4, 9, 1]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("algorithm", BOTH)
def test_one_rank_is_perfect(algorithm: Algorithm, overlap: bool) -> None:
    assert step_seconds(workload(overlap), CLUSTER, algorithm, 1) == 0.5


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("algorithm", BOTH)
def test_a_network_without_limits_is_perfect(algorithm: Algorithm, overlap: bool) -> None:
    unlimited = Link(0, math.inf)
    assert step_seconds(workload(overlap), Cluster(4, unlimited, unlimited), algorithm, 512) == 0.5


@pytest.mark.parametrize("ranks", [2, 4, 8, 64, 512])
@pytest.mark.parametrize("threshold", [0, 2**20, 64 * 2**20, 2**30])
def test_overlap_never_costs_time(ranks: int, threshold: float) -> None:
    for algorithm in BOTH:
        if CLUSTER.supports(algorithm, ranks):
            beside = step_seconds(workload(True, threshold=threshold), CLUSTER, algorithm, ranks)
            assert 0.5 <= beside <= step_seconds(workload(False, threshold=threshold), CLUSTER, algorithm, ranks)


def test_without_overlap_and_with_a_buffer_for_all_a_step_is_computation_and_one_reduction() -> None:
    expected = 0.5 + CLUSTER.seconds("ring", 16, 4 * 138_357_544)
    assert step_seconds(workload(False, threshold=2**30), CLUSTER, "ring", 16) == pytest.approx(expected)


def test_efficiency_falls_with_the_ranks_and_rises_with_the_batch() -> None:
    steps = [step_seconds(workload(), CLUSTER, "ring", ranks) for ranks in (8, 16, 64, 512)]
    assert steps == sorted(steps)
    assert 1.0 / step_seconds(workload(seconds=1.0), CLUSTER, "ring", 64) > 0.5 / step_seconds(workload(), CLUSTER, "ring", 64)


@pytest.mark.parametrize(("ranks", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_workers_double_up_to_the_job(ranks: int, counts: list[int]) -> None:
    assert worker_counts(ranks) == counts
