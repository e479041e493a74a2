"""The time of an allreduce follows the formulas, computed by hand."""

from __future__ import annotations

import pytest

from vggdist.planning.collective_times import Cluster, Link

MEGABYTE = 1e6
FAST = Link(latency=1e-6, bandwidth=10e9)
SLOW = Link(latency=10e-6, bandwidth=1e9)
HOSTS_OF_4 = Cluster(4, FAST, SLOW)


def test_a_message_takes_its_latency_and_its_bytes_over_the_bandwidth() -> None:
    assert SLOW.seconds(MEGABYTE) == pytest.approx(10e-6 + 1e-3)


def test_a_ring_on_one_host_never_meets_the_network() -> None:
    # 3 ranks: 2 x 2 steps of a third of a megabyte.
    assert HOSTS_OF_4.seconds("ring", 3, MEGABYTE) == pytest.approx(4 * (1e-6 + 1e6 / 3 / 10e9))


def test_a_ring_over_hosts_moves_at_the_pace_of_the_network() -> None:
    # 8 ranks: 2 x 7 steps of an eighth of a megabyte.
    assert HOSTS_OF_4.seconds("ring", 8, MEGABYTE) == pytest.approx(14 * (10e-6 + 1e6 / 8 / 1e9))


def test_a_hierarchical_reduction_crosses_the_network_once_for_each_host() -> None:
    # 2 hosts of 4: 2 x 3 steps of a quarter within, 2 x 1 steps of a half (4 rings of an eighth) between.
    expected = 6 * (1e-6 + 1e6 / 4 / 10e9) + 2 * (10e-6 + 1e6 / 2 / 1e9)
    assert HOSTS_OF_4.seconds("hierarchical", 8, MEGABYTE) == pytest.approx(expected)


def test_with_one_rank_a_host_hierarchical_is_a_ring() -> None:
    cluster = Cluster(1, FAST, SLOW)
    assert cluster.seconds("hierarchical", 5, MEGABYTE) == pytest.approx(cluster.seconds("ring", 5, MEGABYTE))


def test_one_rank_reduces_nothing() -> None:
    assert HOSTS_OF_4.seconds("ring", 1, MEGABYTE) == 0


def test_a_ring_of_many_ranks_sends_twice_the_bytes_over_each_link() -> None:
    cluster = Cluster(4, Link(0, 10e9), Link(0, 1e9))
    assert cluster.seconds("ring", 4096, MEGABYTE) == pytest.approx(2 * MEGABYTE / 1e9, rel=1e-3)


def test_gathering_passes_the_rows_of_each_rank_on_to_all_others() -> None:
    assert HOSTS_OF_4.gather_seconds(3, MEGABYTE) == pytest.approx(2 * (1e-6 + 1e6 / 10e9))
    assert HOSTS_OF_4.gather_seconds(8, MEGABYTE) == pytest.approx(7 * (10e-6 + 1e6 / 1e9))


def test_ranks_fill_one_host_after_the_other() -> None:
    assert [HOSTS_OF_4.hosts(ranks) for ranks in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(("ranks", "supported"), [(2, False), (4, False), (6, False), (8, True)])
def test_hierarchical_needs_several_full_hosts(ranks: int, supported: bool) -> None:
    assert HOSTS_OF_4.supports("hierarchical", ranks) is supported and HOSTS_OF_4.supports("ring", ranks)
