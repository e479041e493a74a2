"""Decoding of images when a data set is loaded: to keep them in memory, or to find and leave out damaged ones."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data.decode import DamagedImageError, decode
from vggdist.data.encoded import Store

_log = logging.getLogger(__name__)
_CHUNK = 64  # files per task: the overhead of a task is as large as decoding a small JPEG

MEMORY_LIMIT = 512 * 2**20
"""Maximum size in bytes of a data set of equal-sized images that is decoded to memory."""


def read_part(
    store: Store, labels: NDArray[np.int32], data: DataConfig, total: int
) -> tuple[Store, NDArray[np.int32], NDArray[np.uint8] | None]:
    """Decode a part to memory if it is small, and leave out damaged images if data.damaged is ``skip``.

    Args:
        store: the images of the part.
        labels: ``(N,)`` their labels.
        data: channels, threads, and the action for damaged images. With ``skip`` every image is decoded once here, because all
            ranks must have the same sample plan before the first step.
        total: number of images of all parts, which share ``MEMORY_LIMIT``.

    Returns:
        Images and labels without the damaged ones, and the pixels ``(N, H, W, C) uint8`` if all have one size and fit.

    Raises:
        DamagedImageError: a decoded image is damaged and data.damaged is ``stop``.
        RequestError: all images of a class are damaged.
    """
    shape = _first_shape(store, data)
    small = int(np.prod(shape)) * total <= MEMORY_LIMIT
    images = np.empty((len(store), *shape), np.uint8) if small else None
    if images is None and data.damaged == "stop":
        return store, labels, None
    equal, damage = _decode_all(store, data, images)
    if damage:
        for _, message in sorted(damage.items()):
            _log.warning("left out: %s", message)
        whole = np.setdiff1d(np.arange(len(store)), sorted(damage))
        lost = np.setdiff1d(labels, labels[whole])
        if lost.size:
            first = int(np.flatnonzero(labels == lost[0])[0])
            raise RequestError(f"all images of the class of {store.name(first)} are damaged; replace them or remove the class")
        store, labels = store.take(whole), labels[whole]
        images = images[whole] if equal and images is not None else None
    return store, labels, images if equal else None


def _first_shape(store: Store, data: DataConfig) -> tuple[int, ...]:
    for index in range(len(store)):
        try:
            return decode(store.read(index), data.channels or 3).shape
        except DamagedImageError:
            if data.damaged == "stop":
                raise
    raise RequestError(f"all {len(store)} images, from {store.name(0)} to {store.name(len(store) - 1)}, are damaged")


def _decode_all(store: Store, data: DataConfig, images: NDArray[np.uint8] | None) -> tuple[bool, dict[int, str]]:
    """Decode every image once, into ``images`` if it has their size.

    Returns:
        Whether all have that size, and the error of each damaged image. With ``stop``, decoding ends soon after the first
        image of another size.
    """
    damage: dict[int, str] = {}

    def visit(chunk: range) -> bool:
        equal = True
        for index in chunk:
            try:
                image = decode(store.read(index), data.channels or 3)
            except DamagedImageError as error:
                if data.damaged == "stop":
                    raise
                damage[index] = str(error)
                continue
            if images is not None and image.shape == images.shape[1:]:
                images[index] = image
            else:
                equal = False
        return equal

    chunks = [range(start, min(start + _CHUNK, len(store))) for start in range(0, len(store), _CHUNK)]
    with ThreadPoolExecutor(data.threads) as pool:
        if data.damaged == "skip":
            return all(list(pool.map(visit, chunks))), damage
        # all() stops at the first False. The iterator is then deleted, which cancels the chunks that have not started; a
        # variable would keep it alive until all have run.
        return all(pool.map(visit, chunks)), damage
