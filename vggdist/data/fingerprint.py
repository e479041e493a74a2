"""By what a data set is recognised: whether a run that continues still reads the images with which it began."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vggdist.data.encoded import Store
from vggdist.data.sanity_checks import few

_CHUNK = 256
_THREADS = 16  # to ask for a file's size costs little but waiting, above all on network storage


def of_pixels(images: np.ndarray) -> str:
    """SHA-256 of ``(N, H, W, C) uint8`` and its shape, hexadecimal."""
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def of_store(store: Store) -> str:
    """SHA-256 over the name and size of each file, or the length of each record, in their order; no image is read.

    It is the same for a copy of the data set elsewhere, whatever its folder is called and when its files were written. An
    image that is replaced by another one of the same name and the same number of bytes is not noticed.

    Raises:
        RequestError: a file is no longer there.
    """

    def marks(start: int) -> bytes:
        return b"".join(store.mark(index) + b"\n" for index in range(start, min(start + _CHUNK, len(store))))

    digest = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(marks, range(0, len(store), _CHUNK)):
            digest.update(part)
    return digest.hexdigest()


def part_identity(labels: np.ndarray, class_names: tuple[str, ...], contents: str) -> dict[str, Any]:
    """What is kept of a part to recognise it: JSON values.

    Args:
        labels: ``(N,) int32``.
        contents: of :func:`of_pixels` or :func:`of_store`.

    Returns:
        ``images``: their number; ``classes``: the number of images of each, in the order of the labels; ``labels`` and
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
    """In what a part differs from what it was, in words that complete "the training set ..."; None where in nothing.

    Args:
        before, now: of :func:`part_identity`; ``before`` may have been read from JSON.
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
        return f"had {before['images']} images before and has {now['images']} now ({few(changed)})"
    if before["labels"] != now["labels"]:
        return "has the images of its classes in another order"
    if before["contents"] != now["contents"]:
        return "has as many images of each class as before, but others: names or sizes of files, or pixels, differ"
    return None


def _other_names(before: list[str], now: list[str]) -> str:
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    if len(gone) == len(new) == 1 and len(before) == len(now):
        return f"calls a class {new[0]} that it called {gone[0]} before"
    if not gone and not new:
        return "has the same classes as before in another order"
    parts = [f"{what} {few(names)}" for what, names in (("lacks the class", gone), ("has the new class", new)) if names]
    return f"had {len(before)} classes before and has {len(now)} now: it {' and '.join(parts)}"
