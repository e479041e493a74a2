"""Measurements are repeated in turn and reported unchanged."""

from __future__ import annotations

import pytest

from vggdist.benchmarking.series import Series, in_turn, link_of
from vggdist.planning.collective_times import Cluster, Link


def test_a_series_returns_its_median_and_its_extremes() -> None:
    series = Series([3.0, 1.0, 2.0])
    assert series.as_json() == {"median": 2.0, "min": 1.0, "max": 3.0, "repeats": [3.0, 1.0, 2.0]}


def test_a_ratio_is_of_the_same_turn() -> None:
    assert Series([2.0, 9.0]).over(Series([1.0, 3.0])).values == [2.0, 3.0]


def test_measurements_take_turns_in_changing_order() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    measured = in_turn({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measured["a"].values == [1.0, 4.0, 5.0] and measured["b"].values == [2.0, 3.0, 6.0]


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_the_link_behind_exact_rings_is_found(ranks: int) -> None:
    link = Link(latency=20e-6, bandwidth=3e9)
    sizes = [1e3, 1e5, 1e7, 1e8]
    seconds = [Cluster(8, link, link).seconds("ring", ranks, size) for size in sizes]
    assert link_of(sizes, seconds, ranks) == pytest.approx((20e-6, 3e9))


def test_a_latency_below_zero_is_none() -> None:
    latency, bandwidth = link_of([1e6, 2e6], [1e-3, 2.5e-3], 2)
    assert latency == 0 and bandwidth > 0
