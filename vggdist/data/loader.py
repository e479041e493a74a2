"""Batches prepared ahead of the step by threads, in the order of the plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from vggdist.data.augment import Batch


def prefetch(tasks: Iterable[Callable[[], Batch]], threads: int, ahead: int) -> Iterator[Batch]:
    """Run tasks in threads and yield their results in order, at most ``ahead`` of them waiting.

    Pillow and numpy release the interpreter while they work, so threads suffice; a fork would not survive MXNet's engine.
    A task's error is raised where its batch would have come.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    waiting: deque[Future[Batch]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
