"""Fingerprints of a data set, to detect that a resumed run would read other images than before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.data.encoded import Store
from vggdist.data.sanity_checks import abbreviated

_CHUNK = 256
_THREADS = 16  # reading a file's size is mostly latency, above all on network storage


def of_pixels(images: NDArray[np.uint8]) -> str:
    """SHA-256 of ``(N, H, W, C) uint8`` and its shape, hexadecimal."""
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def of_store(store: Store) -> str:
    """SHA-256 over the name and size of each file, or the length of each record, in order; no image is read.

    It does not depend on the path of the data set and on modification times, so a copy has the same. An image that is replaced
    by another one of the same name and size is not detected.

    Raises:
        RequestError: a file is missing.
    """

    def marks(start: int) -> bytes:
        return b"".join(store.mark(index) + b"\n" for index in range(start, min(start + _CHUNK, len(store))))

    digest = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(marks, range(0, len(store), _CHUNK)):
            digest.update(part)
    return digest.hexdigest()


def part_identity(labels: NDArray[np.int32], class_names: tuple[str, ...], contents: str) -> dict[str, Any]:
    """The fingerprint of a part, as JSON values.

    Args:
        labels: ``(N,) int32``.
        contents: result of :func:`of_pixels` or :func:`of_store`.

    Returns:
        ``images``: their number; ``classes``: number of images per class, in the order of the labels; ``labels`` and
        ``contents``: SHA-256, hexadecimal.
    """
    counts = np.bincount(labels, minlength=len(class_names)).tolist()
    return {
        "images": len(labels),
        "classes": dict(zip(class_names, counts, strict=True)),
        "labels": hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest(),
        "contents": contents,
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Describe how a part has changed, to complete "the training set ..."; None if it has not.

    Args:
        before, now: results of :func:`part_identity`; ``before`` may have been read from JSON.
    """
    names_before, names = (list(part["classes"]) for part in (before, now))
    if names_before != names:
        return _other_names(names_before, names)
    changed = [
        f"{name} {count_before} before, {count} now"
        for name, count in now["classes"].items()
        if (count_before := before["classes"][name]) != count
    ]
    if changed:
        return f"had {before['images']} images before and has {now['images']} now ({abbreviated(changed)})"
    if before["labels"] != now["labels"]:
        return "has its labels in another order"
    if before["contents"] != now["contents"]:
        return "has the same number of images per class, but other images: file names, file sizes or pixels differ"
    return None


def _other_names(before: list[str], now: list[str]) -> str:
    removed, added = [name for name in before if name not in now], [name for name in now if name not in before]
    if len(removed) == len(added) == 1 and len(before) == len(now):
        return f"has the class {added[0]} instead of {removed[0]}"
    if not removed and not added:
        return "has the same classes as before in another order"
    parts = [f"{what} {abbreviated(names)}" for what, names in (("removed", removed), ("added", added)) if names]
    return f"had {len(before)} classes before and has {len(now)} now: {'; '.join(parts)}"
