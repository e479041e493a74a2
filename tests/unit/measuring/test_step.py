"""The shares of a step's time add up."""

from __future__ import annotations

import pytest

from vggdist.measuring.series import Series
from vggdist.measuring.step import shares_of


def test_what_the_reduction_adds_to_the_bare_step_is_the_allreduce_s_share() -> None:
    # Of 10 ms: 1 ms of data wait, a bare step of 8 ms, 6 ms without its reduction.
    shares = shares_of(Series([100.0]), bare=Series([125.0]), compute=Series([1000 / 6]), data_wait=Series([10.0]))
    assert {name: share.median for name, share in shares.items()} == {
        "data_wait(%)": 10,
        "compute(%)": pytest.approx(60),
        "allreduce(%)": pytest.approx(20),
        "rest(%)": pytest.approx(10),
    }
