"""Commits are complete and of one step, and the ranks agree on the newest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet as mx
import pytest

from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.elastic import generations
from vggdist.elastic.generations import HostsChanged, run_elastic
from vggdist.elastic.state import ElasticState


class Ranks:
    """A world of rank 0, in which the other ranks have commits of these steps."""

    rank = 0

    def __init__(self, *steps: int | None) -> None:
        self.steps = steps

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.steps]

    def together(self, action: Callable[[], None]) -> None:
        action()

    def barrier(self) -> None:
        pass


ALONE: Any = Ranks()


@pytest.fixture
def arrays() -> dict[str, mx.nd.NDArray]:
    return {"parameter/a": mx.nd.zeros((3, 2)), "optimizer/b": mx.nd.zeros(4)}


def newest(memory: ElasticState) -> tuple[int, dict[str, list[float]]] | None:
    """Step and values of the newest commit."""
    start = memory.newest(ALONE)
    if start is None or start.state is None:
        return None
    return start.state["step"], {name: sorted(set(values.ravel().tolist())) for name, values in start.arrays.items()}


def at(step: int, arrays: dict[str, mx.nd.NDArray]) -> dict[str, Any]:
    """Set the arrays to those of a step."""
    for array in arrays.values():
        array[:] = step
    return {"step": step}


def both(value: float) -> dict[str, list[float]]:
    return {"parameter/a": [value], "optimizer/b": [value]}


def test_without_a_commit_there_is_nothing_to_start_from() -> None:
    assert newest(ElasticState()) is None


def test_a_commit_counts_when_the_reduction_of_the_step_after_it_has_arrived(arrays: dict[str, mx.nd.NDArray]) -> None:
    memory = ElasticState()
    memory.commit(arrays, at(5, arrays))
    memory.confirm(6)
    assert newest(memory) is None, "reading the newest commit after a failure discards the pending one"
    memory.commit(arrays, at(10, arrays))
    at(11, arrays)
    memory.confirm(12)
    assert newest(memory) == (10, both(10))


def test_the_previous_commit_stays_until_the_next_one_is_confirmed(arrays: dict[str, mx.nd.NDArray]) -> None:
    memory = ElasticState()
    for step in (5, 10, 15):
        memory.commit(arrays, at(step, arrays))
        memory.confirm(step + 2)
    memory.commit(arrays, at(20, arrays))
    memory.commit(arrays, at(21, arrays))  # skipped: a commit is pending
    assert newest(memory) == (15, both(15))


def test_with_a_commit_at_each_step_every_other_one_is_kept(arrays: dict[str, mx.nd.NDArray]) -> None:
    memory = ElasticState()
    for step in range(1, 9):
        memory.confirm(step)
        memory.commit(arrays, at(step, arrays))
    assert newest(memory) == (5, both(5))


def test_a_copy_that_an_error_left_out_is_no_commit(arrays: dict[str, mx.nd.NDArray]) -> None:
    memory = ElasticState()
    memory.commit(arrays, at(5, arrays))
    memory.confirm(7)
    state = at(10, arrays)
    arrays["parameter/a"] += mx.nd.random.normal(0, -1, (3, 2))  # fails when it is executed
    memory.commit(arrays, state)
    generations._drain()
    memory.confirm(12)
    assert newest(memory) == (5, both(5))


def test_a_commit_that_is_waited_for_replaces_a_pending_one(arrays: dict[str, mx.nd.NDArray]) -> None:
    memory = ElasticState()
    memory.commit(arrays, at(5, arrays))
    memory.commit_and_wait(arrays, at(6, arrays), ALONE)
    assert newest(memory) == (6, both(6))


def test_the_root_is_the_rank_with_the_newest_commit(arrays: dict[str, mx.nd.NDArray]) -> None:
    memory = ElasticState()
    memory.commit(arrays, at(5, arrays))
    memory.confirm(7)
    worlds: list[Any] = [Ranks(*steps) for steps in ((None, 4), (None, 5), (5, 10), (10, 10))]
    assert [start.root for start in map(memory.newest, worlds) if start is not None] == [0, 0, 2, 1]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "_launcher_is_elastic", lambda: True)
    monkeypatch.setattr(generations, "_listen", lambda memory: None)
    monkeypatch.setattr(generations, "disconnect", lambda world: None)
    monkeypatch.setattr(generations, "reinitialize", lambda: ALONE)


@pytest.mark.parametrize("error", [HostsChanged(), mx.MXNetError("Connection closed by peer")])
def test_after_a_change_the_training_is_begun_again(error: Exception, launcher: None) -> None:
    changes: list[str | None] = []
    memory = ElasticState()

    def train(world: World) -> str:
        changes.append(memory.change)
        memory.hosts_changed = True
        if len(changes) == 1:
            raise error
        return "finished"

    assert run_elastic(train, ALONE, memory, lambda: "rank 1 is lost") == "finished"
    assert changes == [None, "rank 1 is lost"]


def test_an_error_of_its_own_ends_a_process(launcher: None) -> None:
    def train(world: World) -> None:
        raise mx.MXNetError("out of memory")

    with pytest.raises(mx.MXNetError, match="out of memory"):
        run_elastic(train, ALONE, ElasticState(), lambda: None)


def test_an_ordinary_launcher_is_refused() -> None:
    with pytest.raises(RequestError, match="--host-discovery-script"):
        run_elastic(lambda world: None, ALONE, ElasticState(), lambda: None)
