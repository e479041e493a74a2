"""A wish is read one step after it was sent, by all ranks alike."""

from __future__ import annotations

import mxnet as mx
import pytest

from vggdist.collectives.consensus import Consensus, Flags
from vggdist.collectives.world import World
from vggdist.training.trainer import _stop_reasons


class Wanting:
    """What this rank raised."""

    stop = trouble = False


def consensus_of(wanting: Wanting) -> Consensus:
    return Consensus(World(), mx.cpu(), lambda: wanting.stop, lambda: wanting.trouble)


def test_a_wish_is_told_with_the_next_step_and_not_before() -> None:
    wanting = Wanting()
    asked = consensus_of(wanting)
    told = []
    for step in range(4):
        wanting.stop, wanting.trouble = step == 1, step == 2
        told.append(asked.read(asked.local_flags()))
    assert told == [Flags(), Flags(), Flags(stop=True), Flags(trouble=True)]


def test_a_wish_outside_a_step_is_told_with_the_next_exchange() -> None:
    wanting = Wanting()
    asked = consensus_of(wanting)
    wanting.stop = True
    assert [asked.exchange().stop, asked.exchange().stop] == [False, True]


@pytest.mark.parametrize(("total", "stop"), [(0, False), (1, True), (512, True), (float("inf"), True), (float("nan"), False)])
def test_any_rank_s_wish_counts_and_a_sum_that_failed_is_none(total: float, stop: bool) -> None:
    asked = consensus_of(Wanting())
    asked.read(mx.nd.array([total, 0]))  # as the ranks' sum arrives; float16 overflows to inf for very many
    assert asked.read(asked.local_flags()) == Flags(stop=stop)


@pytest.mark.parametrize(
    ("reasons", "text"),
    [
        ([None, "SIGTERM"], "SIGTERM on rank 1"),
        (["SIGINT"], "SIGINT on rank 0"),
        (["run.max_time", "run.max_time"], "run.max_time on all ranks"),
        (["SIGTERM", None, "SIGTERM", "SIGUSR1"], "SIGTERM on rank 0, 2 and SIGUSR1 on rank 3"),
    ],
)
def test_stop_reasons_a_run_is_told_in_few_words(reasons: list[str | None], text: str) -> None:
    assert _stop_reasons(reasons) == text
