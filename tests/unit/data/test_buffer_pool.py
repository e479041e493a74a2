"""Released buffers are reused, and only those of the pool."""

from __future__ import annotations

import numpy as np

from vggdist.config.images import AugmentConfig
from vggdist.data.augment import TrainingView
from vggdist.data.buffer_pool import BufferPool
from vggdist.data.dataset import ArraySource
from vggdist.data.loader import prefetch


def test_a_buffer_that_came_back_is_lent_again() -> None:
    pool = BufferPool()
    first, second = pool.acquire((2, 3)), pool.acquire((2, 3))
    assert not np.shares_memory(first, second)
    pool.release(second)
    assert pool.acquire((2, 3)) is second


def test_a_buffer_of_another_shape_is_not_lent() -> None:
    pool = BufferPool()
    pool.release(pool.acquire((2, 3)))
    assert pool.acquire((3, 2)).shape == (3, 2)


def test_what_was_not_lent_or_comes_back_twice_is_not_kept() -> None:
    pool, stranger = BufferPool(), np.empty((2, 3), np.uint8)
    own = pool.acquire((2, 3))
    for buffer in (stranger, own, own):
        pool.release(buffer)
    assert pool.acquire((2, 3)) is own
    assert pool.acquire((2, 3)) is not stranger and pool.acquire((2, 3)) is not own


def test_an_epoch_needs_no_more_buffers_than_batches_wait_and_shows_the_same_images() -> None:
    source = ArraySource(np.random.default_rng(0).integers(0, 256, (64, 9, 9, 3), np.uint8), np.zeros(64, np.int32), ("a",))
    config, mask = AugmentConfig(random_resized_crop=True, flip=True, mixup=0.2), np.ones(4, np.float32)

    def images(view: TrainingView, release: bool) -> tuple[list[np.ndarray], set[int]]:
        tasks = [lambda k=k: view.batch(0, np.arange(k, k + 4), mask) for k in range(0, 64, 4)]
        copies, addresses = [], set()
        for batch in prefetch(tasks, 2, 2, view.release if release else None):
            copies.append(batch.images.copy())
            addresses.add(batch.images.ctypes.data)
        return copies, addresses

    reused, addresses = images(TrainingView(source, config, 8, 0, (0, 0, 0)), True)
    fresh, _ = images(TrainingView(source, config, 8, 0, (0, 0, 0)), False)
    np.testing.assert_array_equal(reused, fresh)
    assert len(addresses) <= 2 + 1 + 2  # waiting, in use, and mixed in by two threads
