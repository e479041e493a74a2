"""Images from one place to another: listed, changed in parallel, written to folders; and checked where they are."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.data import folder
from vggdist.data.decode import DamagedImageError, Encoded, decode
from vggdist.data.encoded import Store
from vggdist.data.framing import resize
from vggdist.data.recordreader import RecordReader
from vggdist.data.records import CLASSES, RecordPart, class_names, find

_LOCK = ".lock"
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
        left_out: images that are so damaged that they have no label, by name, and why.
    """

    name: str
    store: Store
    labels: np.ndarray
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a part."""

    written: int = 0
    left_out: list[dict[str, str]] = field(default_factory=list)

    def as_report(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def listed_parts(source: Path, damaged: str = "stop") -> tuple[tuple[str, ...], list[Part]]:
    """The class names and the images of a folder, a list file or a folder of record files.

    Raises:
        DamagedImageError: a record's header is damaged, unless ``damaged`` is ``skip``.
        RequestError: it is none of them.
    """
    if source.is_file() and source.suffix != ".rec":
        return _read_list(source)
    if (source / "train.rec").is_file():
        names, *found = find(source, damaged)
        return names, [Part(part.path.stem, part.store, part.labels, part.left_out) for part in found if part is not None]
    layout = folder.scan(source)
    parts = [Part("train", folder.FileStore(layout.train.paths), layout.train.labels)]
    if layout.test is not None:
        parts.append(Part("test", folder.FileStore(layout.test.paths), layout.test.labels))
    return layout.class_names, parts


def _read_list(path: Path) -> tuple[tuple[str, ...], list[Part]]:
    """Images and classes from the lines of a text file."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) not in (2, 3):
            raise RequestError(f"line {number} of {path} has {len(row)} columns; expected path, tab, class")
    if not rows:
        raise RequestError(f"{path} lists no image")
    paths = [path.parent / (row[0] if len(row) == 2 else row[2]) for row in rows]
    if all(len(row) == 3 for row in rows):  # MXNet's: key, label, path
        try:
            labels = np.array([int(float(row[1])) for row in rows], np.int32)
        except ValueError as error:
            raise RequestError(f"{path} has a label that is no number: {error}") from error
        names = class_names(path.parent / CLASSES) or tuple(f"class {label}" for label in range(int(labels.max()) + 1))
    else:
        names = tuple(sorted({row[1] for row in rows}))
        place = {name: label for label, name in enumerate(names)}
        labels = np.array([place[row[1]] for row in rows], np.int32)
    return names, [Part("train", folder.FileStore(paths), labels)]


def write_folder(
    part: Part,
    names: tuple[str, ...],
    target: Path,
    change: Change,
    threads: int,
    damaged: str,
    advance: Callable[[int], object],
) -> Outcome:
    """Write ``<part>/<class>/<number>.jpg`` (or .png); what an earlier call wrote is left as it is.

    Raises:
        DamagedImageError: an image does not decode and ``damaged`` is ``stop``.
        RequestError: a class name cannot be that of a folder.
    """
    if unfit := [name for name in names if "/" in name or name.startswith(".")]:
        raise RequestError(f"the class {unfit[0]!r} cannot be a folder's name; change it in {CLASSES}")
    for name in names:
        (target / part.name / name).mkdir(parents=True, exist_ok=True)
    marker, request = target / f".{part.name}.request", fingerprint(part, names, change).encode()
    goes_on = marker.exists() and marker.read_bytes() == request
    write_whole(marker, request)
    outcome = Outcome()
    for key, content in changed(part.store, 0, change, threads):
        if isinstance(content, DamagedImageError):
            if damaged == "stop":
                raise content
            outcome.left_out.append({"image": part.store.name(key), "reason": str(content)})
        else:
            suffix = "png" if content.startswith(b"\x89PNG") else "jpg"
            path = target / part.name / names[part.labels[key]] / f"{key:08d}.{suffix}"
            if not (goes_on and path.exists()):
                write_whole(path, content)
            outcome.written += 1
        advance(1)
    return outcome


def changed(store: Store, first: int, change: Change, threads: int) -> Iterator[tuple[int, bytes | DamagedImageError]]:
    """The images from a place on, in order, made by threads a few ahead."""

    def make(key: int) -> bytes | DamagedImageError:
        try:
            return change.of(store.read(key))
        except DamagedImageError as error:
            return error

    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    waiting: deque[tuple[int, Future[bytes | DamagedImageError]]] = deque()
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


def check(path: Path, threads: int, advance: Callable[[int], object]) -> tuple[int, list[str]]:
    """Decode every image of a record file, a folder of record files or a folder of images.

    Returns:
        How many there are, and what is wrong with each damaged one, by file and key.
    """
    damage: list[str] = []
    if path.is_file() and path.suffix == ".rec":
        files = [path]
    else:
        files = sorted(path.glob("*.rec")) if path.is_dir() else []
    if files:
        stores: list[Store] = []
        for file in files:
            headers = RecordReader(file).labels()[1]
            damage += headers.values()
            if len(headers) < len(RecordReader(file)):
                stores.append(RecordPart(file, "skip").store)
        total = len(damage) + sum(map(len, stores))
    else:
        stores = [part.store for part in listed_parts(path)[1]]
        total = sum(map(len, stores))
    for store in stores:
        for _, content in changed(store, 0, Change(None, None), threads):
            if isinstance(content, DamagedImageError):
                damage.append(str(content))
            advance(1)
    return total, damage


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Make a folder and keep other processes from preparing it meanwhile; the system ends that even for one that is killed.

    Raises:
        RequestError: another process is at it.
    """
    target.mkdir(parents=True, exist_ok=True)
    with (target / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RequestError(f"{target} is being prepared by {lock.read()}; wait for it, or give another TARGET") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def fingerprint(part: Part, names: tuple[str, ...], change: Change) -> str:
    """Hash of what was asked for: another request does not go on with these files."""
    digest = hashlib.sha256(json.dumps([names, asdict(change)]).encode() + part.labels.astype("<i4").tobytes())
    for index in range(len(part.store)):
        digest.update(f"{part.store.name(index)} {part.store.stamp(index)}\n".encode())
    return digest.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file aside, bring it to the disk, and give it its name."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
