"""Prefetching of batches by threads, in the order of the sample plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from vggdist.data.augment import Batch, TrainingView
from vggdist.data.sampler import SamplePlan

_Made = TypeVar("_Made")


def batch_tasks(plan: SamplePlan, view: TrainingView, rank: int, steps: Iterable[int]) -> Iterator[partial[Batch]]:
    """The tasks that make a rank's batches of some global steps, in order."""
    order, ordered_epoch = np.empty(0, np.int64), -1
    for step in steps:
        epoch, step_of_epoch = divmod(step, plan.steps_per_epoch)
        if epoch != ordered_epoch:
            order, ordered_epoch = plan.order(epoch), epoch
        samples, mask = plan.part(order, step_of_epoch, rank)
        yield partial(view.batch, epoch, samples, mask)


def prefetch(tasks: Iterable[Callable[[], _Made]], threads: int, ahead: int) -> Generator[_Made]:
    """Run tasks in threads and yield their results in order, at most ``ahead`` of them in advance.

    Threads suffice because libjpeg-turbo, OpenCV, Pillow and numpy release the GIL; MXNet's engine does not survive a fork. A
    task's error is raised in place of its result.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    waiting: deque[Future[_Made]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
