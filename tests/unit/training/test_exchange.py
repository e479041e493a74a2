"""Gradients travel in buckets that follow the order of the backward pass."""

from __future__ import annotations

from math import inf

import pytest

from vggdist.config.schema import TrainConfig
from vggdist.training.exchange import bucket_cap, buckets

SIZES = {"conv1": 1, "conv2": 10, "hidden": 50, "output": 3}  # bytes, in the order of the layers


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
    ("asked", "several_hosts", "mib"),
    [(None, False, inf), (None, True, 4), (25.0, False, 25), (0.5, True, 0.5), (inf, True, inf), (0.0, True, 0)],
)
def test_gradients_overlap_between_hosts_unless_something_else_is_asked_for(
    asked: float | None, several_hosts: bool, mib: float
) -> None:
    assert bucket_cap(TrainConfig(bucket_cap_mb=asked), several_hosts) == mib * 2**20
