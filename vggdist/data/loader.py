"""Batches prepared ahead of the step by threads, in the order of the plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from vggdist.data.augment import Batch


def prefetch(
    tasks: Iterable[Callable[[], Batch]], threads: int, ahead: int, done: Callable[[Batch], None] | None = None
) -> Iterator[Batch]:
    """Run tasks in threads and yield their results in order, at most ``ahead`` of them waiting.

    libjpeg-turbo, OpenCV, Pillow and numpy release the interpreter while they work, so threads suffice; a fork would not
    survive MXNet's engine. A task's error is raised where its batch would have come.

    Args:
        done: told of each batch when the next one is asked for. Then nobody may use its images any more.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    waiting: deque[Future[Batch]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > ahead:
                yield from _hand_over(waiting.popleft().result(), done)
        while waiting:
            yield from _hand_over(waiting.popleft().result(), done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _hand_over(batch: Batch, done: Callable[[Batch], None] | None) -> Iterator[Batch]:
    yield batch
    if done is not None:
        done(batch)
