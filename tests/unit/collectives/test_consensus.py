"""Flags are read one step after they were sent, with the same values on all ranks."""

from __future__ import annotations

import mxnet as mx
import pytest

from vggdist.collectives.consensus import Consensus, Flags
from vggdist.collectives.world import World
from vggdist.training.trainer import _stop_reasons


class Local:
    """The flags of this rank."""

    stop = failed = late = False


def consensus_of(local: Local) -> Consensus:
    return Consensus(World(), mx.cpu(), lambda: local.stop, lambda: local.failed, checkpoint=lambda: local.late)


def test_a_flag_is_read_with_the_next_step_and_not_before() -> None:
    local = Local()
    consensus = consensus_of(local)
    flags = []
    for step in range(5):
        local.stop, local.failed, local.late = step == 1, step == 2, step == 3
        flags.append(consensus.read(consensus.local_flags()))
    assert flags == [Flags(), Flags(), Flags(stop=True), Flags(failed=True), Flags(checkpoint=True)]


def test_a_flag_outside_a_step_is_read_with_the_next_exchange() -> None:
    local = Local()
    consensus = consensus_of(local)
    local.stop = True
    assert [consensus.exchange().stop, consensus.exchange().stop] == [False, True]


@pytest.mark.parametrize(("total", "stop"), [(0, False), (1, True), (512, True), (float("inf"), True), (float("nan"), False)])
def test_any_rank_s_flag_counts_and_a_failed_sum_raises_none(total: float, stop: bool) -> None:
    consensus = consensus_of(Local())
    consensus.read(mx.nd.array([total, 0]))  # the sum over the ranks; float16 overflows to inf with very many
    assert consensus.read(consensus.local_flags()) == Flags(stop=stop)


@pytest.mark.parametrize(
    ("reasons", "text"),
    [
        ([None, "SIGTERM"], "SIGTERM on rank 1"),
        (["SIGINT"], "SIGINT on rank 0"),
        (["run.max_time", "run.max_time"], "run.max_time on all ranks"),
        (["SIGTERM", None, "SIGTERM", "SIGUSR1"], "SIGTERM on rank 0, 2 and SIGUSR1 on rank 3"),
    ],
)
def test_the_reason_of_a_stop_is_short(reasons: list[str | None], text: str) -> None:
    assert _stop_reasons(reasons) == text
