"""The shares of a step's time add up."""

from __future__ import annotations

import pytest

from vggdist.benchmarking.bare_step import Parts
from vggdist.benchmarking.step import shares_of


def test_what_is_no_part_of_the_bare_step_and_no_wait_for_data_is_the_rest() -> None:
    shares = shares_of(seconds=[0.010, 0.020], data_waits=[10, 0], parts=[Parts(0.006, 0.001, 0.0005), Parts(0.021, 0, 0)])
    assert {name: list(share.values) for name, share in shares.items()} == {
        "data_wait(%)": [10, 0],
        "compute(%)": pytest.approx([60, 105]),
        "rank_wait(%)": pytest.approx([10, 0]),
        "allreduce(%)": pytest.approx([5, 0]),
        "rest(%)": pytest.approx([15, -5]),
    }
