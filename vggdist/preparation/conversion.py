"""Images from one place to another: changed in parallel, and written to folders."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.data import folder
from vggdist.data.decode import DamagedImageError, Encoded, decode
from vggdist.data.encoded import Store
from vggdist.data.record_dataset import CLASSES
from vggdist.data.resize_crop import resize
from vggdist.preparation.output_folder import OutputFolder, write_whole

_Error = TypeVar("_Error", bound=RequestError)
_AHEAD = 4  # images for each thread that may wait for their turn to be written


@dataclass(frozen=True)
class Change:
    """What becomes of an image: nothing with neither, since the bytes are then passed through."""

    short_side: int | None
    quality: int | None

    def of(self, image: Encoded) -> bytes:
        """The bytes to keep; ``DamagedImageError`` where the image does not decode."""
        pixels = decode(image, 3)  # also to pass it through: what is damaged must not be found in training
        if self.quality is None:
            return image.content
        height, width, _ = pixels.shape
        if self.short_side is not None and min(height, width) > self.short_side:
            side = min(height, width)
            pixels = resize(pixels, round(height * self.short_side / side), round(width * self.short_side / side))
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=self.quality)
        return encoded.getvalue()


@dataclass(frozen=True, eq=False)
class Part:
    """The images of ``train`` or ``test`` and the ``(N,) int32`` label of each.

    Attributes:
        left_out: images that are so damaged that they have no label, and links to nothing, by name, and why.
        origin: where the images are, in words.
    """

    name: str
    store: Store
    labels: np.ndarray
    left_out: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""


@dataclass
class Outcome:
    """What became of a part."""

    written: int = 0
    left_out: list[dict[str, str]] = field(default_factory=list)

    def as_report(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def write_folder(
    part: Part,
    names: tuple[str, ...],
    target: OutputFolder,
    request: str,
    change: Change,
    threads: int,
    damaged: str,
    advance: Callable[[int], object],
) -> Outcome:
    """Write ``<part>/<class>/<number>.jpg`` (or .png); what an earlier call of this request wrote is left as it is.

    Raises:
        DamagedImageError: an image does not decode and ``damaged`` is ``stop``.
        RequestError: a class name cannot be that of a folder, or the folder of the part holds what is not of this request.
    """
    if unfit := [name for name in names if not folder.fits_class(name)]:
        raise RequestError(f"the class {unfit[0]!r} cannot be a folder's name; change it in {CLASSES}")
    place, marker, aside = target.folder / part.name, target.own / f"{part.name}.request", target.own / "image"
    if not marker.exists() or marker.read_bytes() != request.encode():
        if found := next((path for path in place.rglob("*") if not path.is_dir()), None):
            raise RequestError(
                f"{place} holds images that are not of this request, such as {found}; remove {place}, or give another TARGET"
            )
        write_whole(marker, request.encode())
    for name in names:
        (place / name).mkdir(parents=True, exist_ok=True)
    outcome = Outcome()
    for key, content in changed(part.store, 0, change, threads, DamagedImageError):
        if isinstance(content, DamagedImageError):
            if damaged == "stop":
                raise content
            outcome.left_out.append({"image": part.store.name(key), "reason": str(content)})
        else:
            suffix = "png" if content.startswith(b"\x89PNG") else "jpg"
            path = place / names[part.labels[key]] / f"{key:08d}.{suffix}"
            if not os.path.lexists(path):
                write_whole(aside, content)
                aside.replace(path)
            outcome.written += 1
        advance(1)
    return outcome


def changed(
    store: Store, first: int, change: Change, threads: int, caught: type[_Error]
) -> Iterator[tuple[int, bytes | _Error]]:
    """The images from a place on, in order, made by threads a few ahead; or the errors of a kind, in place of images."""

    def make(key: int) -> bytes | _Error:
        try:
            return change.of(store.read(key))
        except caught as error:
            return error

    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    waiting: deque[tuple[int, Future[bytes | _Error]]] = deque()
    try:
        for key in range(first, len(store)):
            waiting.append((key, pool.submit(make, key)))
            if len(waiting) > _AHEAD * threads:
                key, made = waiting.popleft()
                yield key, made.result()
        for key, made in waiting:
            yield key, made.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def fingerprint(part: Part, names: tuple[str, ...], change: Change) -> str:
    """Hash of what was asked for: another request does not go on with these files."""
    digest = hashlib.sha256(json.dumps([names, asdict(change)]).encode() + part.labels.astype("<i4").tobytes())
    for index in range(len(part.store)):
        digest.update(f"{part.store.name(index)} {part.store.stamp(index)}\n".encode())
    return digest.hexdigest()
