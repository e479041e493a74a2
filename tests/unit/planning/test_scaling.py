"""The prediction follows from its assumptions, and has the limits that it must have."""

from __future__ import annotations

import math
from dataclasses import replace
from math import inf

import pytest

from vggdist.config.schema import ModelConfig
from vggdist.models.layers import Layer, describe
from vggdist.planning.collective_times import Algorithm, Cluster, Link
from vggdist.planning.scaling import Exchange, Gradient, Workload, reduced_at, step_seconds, worker_counts

VGG16 = describe(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000)
CLUSTER = Cluster(4, Link(5.7e-6, 12e9), Link(9.6e-6, 2.5e9))
BOTH: tuple[Algorithm, ...] = ("ring", "hierarchical")
HIDDEN = ("hidden1", "hidden2")


def workload(cap: float | None = 0, seconds: float = 0.5, threshold: float = 0, **exchange: object) -> Workload:
    return Workload(VGG16, seconds, 64, exchange=Exchange(cap, threshold, **exchange))  # type: ignore[arg-type]


SMALL = [
    Layer("stage1.conv1", "convolution", (1, 1, 1), parameters=10, flops=300),
    Layer("head", "head", (1,)),
    Layer("output", "dense", (1,), parameters=5, flops=100),
]


def test_a_gradient_is_ready_when_the_backward_pass_is_through_the_layer() -> None:
    # 3 s: 1 s forward, 2 s backward, a quarter of which is the output's.
    each = Workload(SMALL, 3.0, 1, bytes_per_gradient=2, exchange=Exchange(cap=0))
    assert each.gradients() == [Gradient(pytest.approx(1.5), 10), Gradient(pytest.approx(3.0), 20)]  # type: ignore[arg-type]
    together = Workload(SMALL, 3.0, 1, bytes_per_gradient=2)
    assert together.gradients() == [Gradient(3.0, 30)]


def test_only_the_last_of_several_backward_passes_hides_anything() -> None:
    accumulated = Workload(SMALL, 3.0, 1, accumulation=4, exchange=Exchange(cap=0))
    assert [gradient.ready for gradient in accumulated.gradients()] == [pytest.approx(3 - 0.5 * 0.75), pytest.approx(3.0)]


def test_a_bucket_is_ready_with_the_last_of_its_gradients() -> None:
    buckets = workload(cap=64 * 2**20).gradients()
    ready = workload().ready()
    assert [gradient.num_bytes for gradient in buckets] == [
        4 * (4_097_000 + 16_781_312),
        4 * 102_764_544,
        4 * sum(layer.parameters for layer in VGG16 if layer.kind == "convolution"),
    ]
    assert [gradient.ready for gradient in buckets] == [ready["hidden2"], ready["hidden1"], ready["stage1.conv1"]]


def test_vgg16_s_largest_gradient_is_ready_early_in_the_backward_pass() -> None:
    gradients = workload().gradients()
    largest = max(gradients, key=lambda gradient: gradient.num_bytes)
    assert largest.num_bytes == 4 * 4096 * (512 * 49 + 1) and largest.ready < 0.5 / 3 * 1.02
    assert sum(gradient.num_bytes for gradient in gradients) == 4 * 138_357_544


@pytest.mark.parametrize(
    ("segment", "batch_norm", "released_with"),
    # What VGG-16 released with hidden1, measured by waiting for each gradient of a backward pass (docs/plan.md).
    [(1, False, "hidden1"), (12, False, "hidden1"), (25, False, "stage4.conv2"), (10**6, False, "stage1.conv1")],
)
def test_a_bulk_segment_releases_its_gradients_at_its_end(segment: int, batch_norm: bool, released_with: str) -> None:
    ready = workload(segment=segment).ready()
    released = [name for name, at in ready.items() if at == ready["hidden1"]]
    assert released[-1] == released_with
    assert list(ready.values()) == sorted(ready.values()) and max(ready.values()) == pytest.approx(0.5)


def test_gradients_that_are_ready_travel_together_as_far_as_the_buffer_holds() -> None:
    sent: list[float] = []

    def seconds(num_bytes: float) -> float:
        sent.append(num_bytes)
        return 1.0

    gradients = [Gradient(0.5, 3), Gradient(0.6, 2), Gradient(0.7, 2), Gradient(0.8, 9), Gradient(4.0, 1)]
    # At 0.5 only the first is ready; at 1.5 two of the next three fit into 8; the 9 goes alone; the last is waited for.
    assert reduced_at(gradients, 8, seconds) == pytest.approx(5.0) and sent == [3, 4, 9, 1]
    assert reduced_at([Gradient(0.5, 1)], 8, seconds, start=2.0) == pytest.approx(3.0)


@pytest.mark.parametrize("cap", [None, 0, 4 * 2**20, inf])
@pytest.mark.parametrize("factors", [(), HIDDEN])
@pytest.mark.parametrize("algorithm", BOTH)
def test_one_rank_is_perfect(algorithm: Algorithm, cap: float | None, factors: tuple[str, ...]) -> None:
    assert step_seconds(workload(cap, factored=factors), CLUSTER, algorithm, 1) == 0.5


@pytest.mark.parametrize("cap", [None, 0, inf])
@pytest.mark.parametrize("algorithm", BOTH)
def test_a_network_without_limits_is_perfect(algorithm: Algorithm, cap: float | None) -> None:
    unlimited = Link(0, math.inf)
    assert step_seconds(workload(cap), Cluster(4, unlimited, unlimited), algorithm, 512) == 0.5


@pytest.mark.parametrize("ranks", [2, 4, 8, 64, 512])
@pytest.mark.parametrize("cap", [0, 2**20, 64 * 2**20])
def test_buckets_cost_no_more_than_their_latencies(ranks: int, cap: float) -> None:
    latency = len(VGG16) * 2 * ranks * CLUSTER.between.latency
    for algorithm in BOTH:
        if CLUSTER.supports(algorithm, ranks):
            beside = step_seconds(workload(cap), CLUSTER, algorithm, ranks)
            assert 0.5 <= beside <= step_seconds(workload(inf), CLUSTER, algorithm, ranks) + latency


def test_in_one_bucket_a_step_is_computation_and_one_reduction() -> None:
    expected = 0.5 + CLUSTER.seconds("ring", 16, 4 * 138_357_544)
    assert step_seconds(workload(inf), CLUSTER, "ring", 16) == pytest.approx(expected)


def test_a_byte_that_is_sent_costs_computation_which_a_slow_network_hides() -> None:
    unlimited, sent = Link(0, math.inf), 2 * 15 / 16 * 4 * 138_357_544
    step = replace(workload(0), byte_cost=2e-9)
    assert step_seconds(step, Cluster(4, unlimited, unlimited), "ring", 16) == pytest.approx(0.5 + 2e-9 * sent)
    assert step_seconds(replace(workload(inf), byte_cost=1e-12), CLUSTER, "ring", 16) == pytest.approx(
        step_seconds(workload(inf), CLUSTER, "ring", 16)
    )
    factored = replace(workload(0, factored=HIDDEN), byte_cost=2e-9)
    rows = 15 * 4 * 64 * (4096 + 25088 + 4096 + 4096)
    rest = 2 * 15 / 16 * sum(4 * layer.parameters for layer in VGG16 if layer.name not in HIDDEN)
    at_no_cost = step_seconds(workload(0, factored=HIDDEN), Cluster(4, unlimited, unlimited), "ring", 16)
    costs = step_seconds(factored, Cluster(4, unlimited, unlimited), "ring", 16) - at_no_cost
    assert costs == pytest.approx(2e-9 * (rows + rest))


def test_factors_are_gathered_early_and_cost_the_product_over_the_other_ranks_samples() -> None:
    step = workload(inf, factored=HIDDEN)
    weights = 4096 * 25088 + 4096 * 4096
    rows = 4 * 64 * (4096 + 25088 + 4096 + 4096)
    (rows_gathered, operations) = step.factors() or (Gradient(0, 0), 0)
    assert rows_gathered.num_bytes == rows and rows_gathered.ready == step.ready()["hidden1"]
    assert operations == 2 * 64 * weights
    assert step.flops == pytest.approx(3 * 64 * sum(layer.flops for layer in VGG16) / 0.5)
    # The rest is reduced after the longer computation, for the rows are there long before its end.
    rest = sum(4 * layer.parameters for layer in VGG16 if layer.name not in HIDDEN)
    expected = 0.5 + 15 * operations / step.flops + CLUSTER.seconds("ring", 16, rest)
    assert step_seconds(step, CLUSTER, "ring", 16) == pytest.approx(expected)


def test_rows_that_come_after_the_backward_pass_are_waited_for() -> None:
    slow = Cluster(1, Link(0, 1e12), Link(0, 1e6))
    step = workload(inf, factored=HIDDEN)
    rows, operations = step.factors() or (Gradient(0, 0), 0)
    gathered = rows.ready + rows.num_bytes / 1e6
    rest = slow.seconds("ring", 2, sum(4 * layer.parameters for layer in VGG16 if layer.name not in HIDDEN))
    expected = max(gathered + 2 * operations / step.flops, gathered + rest)
    assert step_seconds(step, slow, "ring", 2) == pytest.approx(expected)


def test_efficiency_falls_with_the_ranks_and_rises_with_the_batch() -> None:
    steps = [step_seconds(workload(), CLUSTER, "ring", ranks) for ranks in (8, 16, 64, 512)]
    assert steps == sorted(steps)
    assert 1.0 / step_seconds(workload(seconds=1.0), CLUSTER, "ring", 64) > 0.5 / step_seconds(workload(), CLUSTER, "ring", 64)


@pytest.mark.parametrize(("ranks", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_workers_double_up_to_the_job(ranks: int, counts: list[int]) -> None:
    assert worker_counts(ranks) == counts
