"""Parallel transformation of images, and writing them to folders."""

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
from numpy.typing import NDArray
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.data import folder
from vggdist.data.decode import DamagedImageError, Encoded, decode
from vggdist.data.encoded import Store
from vggdist.data.record_dataset import CLASSES
from vggdist.data.resize_crop import resize
from vggdist.preparation.output_folder import OutputFolder, write_whole

_Error = TypeVar("_Error", bound=RequestError)
_AHEAD = 4  # finished images per thread that may wait to be written


@dataclass(frozen=True)
class Transform:
    """Resizing and JPEG quality of written images; with None for both, the original bytes are kept."""

    short_side: int | None
    quality: int | None

    def apply(self, image: Encoded) -> bytes:
        """The bytes to write; ``DamagedImageError`` if the image does not decode."""
        pixels = decode(image, 3)  # also if the bytes are kept, to find damaged images before the training
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
        left_out: name and error of damaged records without a label, and of broken symlinks.
        origin: description of the location of the images.
    """

    name: str
    store: Store
    labels: NDArray[np.int32]
    left_out: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""


@dataclass
class Outcome:
    """Result of writing a part."""

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
    transform: Transform,
    threads: int,
    damaged: str,
    advance: Callable[[int], object],
) -> Outcome:
    """Write ``<part>/<class>/<number>.jpg`` (or .png); files of an earlier call of the same request are kept.

    Raises:
        DamagedImageError: an image does not decode and ``damaged`` is ``stop``.
        RequestError: a class name is not a valid folder name, or the folder of the part has files of another request.
    """
    if invalid := [name for name in names if not folder.fits_class(name)]:
        raise RequestError(f"the class name {invalid[0]!r} is not a valid folder name; change it in {CLASSES}")
    place, marker, aside = target.folder / part.name, target.own / f"{part.name}.request", target.own / "image"
    if not marker.exists() or marker.read_bytes() != request.encode():
        if other := next((path for path in place.rglob("*") if not path.is_dir()), None):
            raise RequestError(
                f"{place} has files of another request, such as {other}; remove {place}, or specify another TARGET"
            )
        write_whole(marker, request.encode())
    for name in names:
        (place / name).mkdir(parents=True, exist_ok=True)
    outcome = Outcome()
    for key, content in transformed(part.store, 0, transform, threads, DamagedImageError):
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


def transformed(
    store: Store, first: int, transform: Transform, threads: int, caught: type[_Error]
) -> Iterator[tuple[int, bytes | _Error]]:
    """Transform the images from ``first`` on in threads; yield their keys and bytes in order, or errors of type ``caught``."""

    def task(key: int) -> bytes | _Error:
        try:
            return transform.apply(store.read(key))
        except caught as error:
            return error

    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    waiting: deque[tuple[int, Future[bytes | _Error]]] = deque()
    try:
        for key in range(first, len(store)):
            waiting.append((key, pool.submit(task, key)))
            if len(waiting) > _AHEAD * threads:
                key, result = waiting.popleft()
                yield key, result.result()
        for key, result in waiting:
            yield key, result.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def fingerprint(part: Part, names: tuple[str, ...], transform: Transform) -> str:
    """Hash of the request and its images, by which only the same request resumes interrupted work."""
    digest = hashlib.sha256(json.dumps([names, asdict(transform)]).encode() + part.labels.astype("<i4").tobytes())
    for index in range(len(part.store)):
        digest.update(f"{part.store.name(index)} {part.store.stamp(index)}\n".encode())
    return digest.hexdigest()
