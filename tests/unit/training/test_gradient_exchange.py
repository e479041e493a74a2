"""What the ranks send each other, computed from sizes, batch and ranks."""

from __future__ import annotations

import subprocess
import sys
from math import inf

import pytest

from vggdist.config.schema import ModelConfig, TrainConfig
from vggdist.models.layers import describe
from vggdist.training.gradient_exchange import (
    GIGABIT,
    HOST_BANDWIDTH,
    Weight,
    allgather_bytes,
    allreduce_bytes,
    bucket_cap,
    buckets,
    factored,
    link_bandwidth,
    sent_by_layer,
    weights_of,
)

SIZES = {"conv1": 1, "conv2": 10, "hidden": 50, "output": 3}  # bytes, in the order of the layers
VGG16 = describe(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000)


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        (0, [["output"], ["hidden"], ["conv2"], ["conv1"]]),
        (3, [["output"], ["hidden"], ["conv2"], ["conv1"]]),
        (4, [["output", "hidden"], ["conv2"], ["conv1"]]),
        (11, [["output", "hidden"], ["conv2", "conv1"]]),
        (54, [["output", "hidden", "conv2"], ["conv1"]]),
        (inf, [["output", "hidden", "conv2", "conv1"]]),
    ],
)
def test_a_bucket_is_full_from_its_cap_on_and_the_last_layer_s_comes_first(cap: float, expected: list[list[str]]) -> None:
    assert buckets(SIZES, cap) == expected


@pytest.mark.parametrize(
    ("cap", "several_hosts", "on_gpu", "mib"),
    [
        (None, False, False, inf),
        (None, True, False, 1),
        (None, False, True, 25),
        (None, True, True, 25),
        (25.0, False, False, 25),
        (0.5, True, False, 0.5),
        (inf, True, True, inf),
        (0.0, True, False, 0),
    ],
)
def test_gradients_overlap_between_hosts_and_on_gpus_unless_something_else_is_asked_for(
    cap: float | None, several_hosts: bool, on_gpu: bool, mib: float
) -> None:
    assert bucket_cap(TrainConfig(bucket_cap_mb=cap), several_hosts, on_gpu) == mib * 2**20


@pytest.mark.parametrize(("ranks", "reduced", "gathered"), [(1, 0, 0), (2, 100, 100), (4, 150, 300), (50, 196, 4900)])
def test_a_ring_sends_twice_the_bytes_to_sum_and_those_of_all_others_to_gather(
    ranks: int, reduced: float, gathered: float
) -> None:
    assert (allreduce_bytes(100, ranks), allgather_bytes(100, ranks)) == (pytest.approx(reduced), gathered)


def test_a_frozen_layer_sends_nothing() -> None:
    frozen, trained = (
        describe(ModelConfig("vgg16", freeze=freeze), channels=3, image_size=224, num_classes=9) for freeze in (4, 0)
    )
    send = sent_by_layer(TrainConfig(), ranks=2, batch_size=8)["sent as gradient"]
    assert [send(row) for row in frozen if row.frozen] == [0] * 14  # ten convolutions and four poolings
    assert [send(row) for row in frozen if not row.frozen] == [send(row) for row in trained[14:]]


def test_vgg16_s_first_hidden_layer_sends_55_times_less_as_factors() -> None:
    (hidden, *_) = weights_of(VGG16)
    assert hidden == Weight("hidden1", 4096, 25088)
    assert hidden.gradient_bytes(2, width=4) == 4 * 102_764_544
    assert hidden.factor_bytes(2, 64, width=4) == 4 * 64 * (4096 + 25088)  # 7.5 MB


def test_each_layer_s_bytes_are_given_as_gradient_and_as_factors() -> None:
    as_gradient, as_factors = sent_by_layer(TrainConfig(), 4, 64).values()
    by_name = {layer.name: layer for layer in VGG16}
    assert as_gradient(by_name["stage1.conv1"]) == as_factors(by_name["stage1.conv1"]) == 1.5 * 4 * 1792
    assert as_gradient(by_name["output"]) == 1.5 * 4 * 4_097_000
    assert as_factors(by_name["output"]) == 3 * 4 * 64 * 5096
    halved, _ = sent_by_layer(TrainConfig(compression="fp16"), 4, 64).values()
    assert halved(by_name["output"]) == 1.5 * 2 * 4_097_000


def chosen(
    ranks: int = 2,
    hosts: int = 2,
    gigabits: float = 1,
    flops: float = 60e9,
    batch: int = 64,
    on_gpu: bool = False,
    **choice: str,
) -> list[str]:
    train = TrainConfig(network_bandwidth=gigabits, **choice)  # type: ignore[arg-type]
    return factored(weights_of(VGG16), train, ranks, batch, link_bandwidth(train, hosts, on_gpu), flops)


def test_factors_are_chosen_where_the_network_costs_more_than_the_longer_product() -> None:
    assert chosen() == ["hidden1", "hidden2", "output"]
    assert chosen(gigabits=100) == [] == chosen(flops=1e9)  # on a slow rank the product takes longer than sending
    assert chosen(gigabits=100, flops=10e12) == ["hidden1", "hidden2"]  # the output's two gathers take longer than they save
    assert chosen(ranks=64, hosts=16) == []  # the rows of 63 others
    assert chosen(ranks=64, hosts=16, flops=10e12) == ["hidden1"]  # of which few columns are as many as a smaller gradient


def test_within_a_host_factors_are_chosen_for_small_batches_on_cpus_and_never_for_one_rank() -> None:
    everything = ["hidden1", "hidden2", "output"]
    assert chosen(hosts=1) == chosen(ranks=1, hosts=1) == chosen(factors="never") == []
    assert chosen(hosts=1, batch=16) == chosen(hosts=1, flops=480e9) == everything
    assert chosen(hosts=1, batch=16, on_gpu=True, flops=10e12) == chosen(ranks=1, hosts=1, batch=16) == []
    assert chosen(hosts=1, factors="always") == chosen(ranks=1, hosts=1, factors="always") == everything


def test_a_small_layer_sends_its_gradient_because_gathering_takes_a_fixed_time() -> None:
    layers = [Weight("hidden", 512, 512), Weight("output", 10, 512)]
    assert factored(layers, TrainConfig(), ranks=2, batch_size=1, bandwidth=GIGABIT, flops=60e9) == ["hidden"]
    assert factored(layers, TrainConfig(), ranks=2, batch_size=1, bandwidth=HOST_BANDWIDTH, flops=60e9) == []


def test_the_arithmetic_does_not_import_mxnet() -> None:
    program = "import sys, vggdist.training.gradient_exchange; sys.exit('mxnet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
