"""Batches and errors are returned in the order of the plan, prepared in advance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import pytest

from vggdist.config.images import AugmentConfig
from vggdist.data.augment import Batch, TrainingView
from vggdist.data.dataset import ArraySource
from vggdist.data.loader import batch_tasks, prefetch
from vggdist.data.sampler import SamplePlan


def numbered(number: int) -> Batch:
    """Placeholder of a batch, which the loader does not inspect."""
    return cast(Batch, number)


def tasks(count: int, started: list[int]) -> Iterator[Callable[[], Batch]]:
    """Tasks that return their number; each is recorded when the loader takes it."""
    for number in range(count):
        started.append(number)
        yield partial(numbered, number)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_batches_come_in_the_order_of_the_plan(threads: int, ahead: int) -> None:
    def slow_at_first(number: int) -> Batch:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return numbered(number)

    work = [lambda number=number: slow_at_first(number) for number in range(12)]
    assert list(prefetch(work, threads, ahead)) == list(range(12))


def test_the_tasks_are_the_rank_s_part_of_each_step_from_any_step_on_into_the_next_epochs() -> None:
    plan = SamplePlan(num_samples=10, global_batch_size=4, world_size=2, seed=0)  # three steps an epoch
    source = ArraySource(np.zeros((10, 2, 2, 1), np.uint8), np.arange(10, dtype=np.int32), ())
    view = TrainingView(source, AugmentConfig(), 2, 0, (0,))
    batches = [task() for task in batch_tasks(plan, view, 1, range(2, 7))]
    for batch, (epoch, step) in zip(batches, [(0, 2), (1, 0), (1, 1), (1, 2), (2, 0)], strict=True):
        samples, mask = plan.part(plan.order(epoch), step, rank=1)
        assert batch.samples.tolist() == samples.tolist() and batch.mask.tolist() == mask.tolist()


def test_an_empty_plan_has_no_batches() -> None:
    assert list(prefetch([], 2, 2)) == []


def test_at_most_the_asked_number_of_batches_waits() -> None:
    started: list[int] = []
    batches = prefetch(tasks(20, started), threads=2, ahead=3)
    for taken in range(1, 15):
        next(batches)
        assert len(started) == taken + 3


def test_batches_are_prepared_at_the_same_time_in_several_threads() -> None:
    meeting = threading.Barrier(2, timeout=600)

    def meet() -> Batch:
        return numbered(meeting.wait())

    assert sorted(cast(Any, list(prefetch([meet, meet], threads=2, ahead=2)))) == [0, 1]


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    def fail() -> Batch:
        raise OSError("damaged.png")

    work: list[Callable[[], Batch]] = [lambda: numbered(0), lambda: numbered(1), fail, lambda: numbered(3)]
    batches = prefetch(work, threads=2, ahead=4)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="damaged.png"):
        next(batches)


def test_no_thread_is_left_when_the_loop_ends_early() -> None:
    batches = prefetch(tasks(100, []), threads=3, ahead=5)
    next(batches)
    assert loader_threads()
    cast(Any, batches).close()
    assert not loader_threads()


def test_no_thread_is_left_after_an_error() -> None:
    def fail() -> Batch:
        raise OSError

    with pytest.raises(OSError):
        list(prefetch([fail] * 3, threads=2, ahead=2))
    assert not loader_threads()


def test_batches_that_nobody_will_take_are_not_prepared() -> None:
    release, prepared = threading.Event(), []

    def prepare() -> Batch:
        release.wait(20)
        prepared.append(True)
        return numbered(1)

    batches = prefetch([lambda: numbered(0), *[prepare] * 10], threads=1, ahead=8)
    next(batches)
    threading.Timer(0.2, release.set).start()  # the one in progress ends while the loader is being closed
    cast(Any, batches).close()
    assert len(prepared) <= 1
