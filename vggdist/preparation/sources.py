"""Inputs of ``vggdist prepare``: a folder, a list file or record files; listing and checking of their images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.config.files import read_regular
from vggdist.data import folder
from vggdist.data.record_dataset import CLASSES, RecordPart, find, numbered_names
from vggdist.data.recordio import MAX_LABELS
from vggdist.data.sanity_checks import Findings, findings, part_line
from vggdist.preparation.conversion import Part, Transform, transformed

_LIST_LIMIT = 2**30  # maximum size of a list file in bytes, about ten million lines
_LABEL = re.compile(r"([0-9]{1,8})(\.0*)?")


def listed_parts(source: Path, damaged: str = "stop") -> tuple[tuple[str, ...], list[Part]]:
    """The class names and the images of a folder, a list file or a folder of record files.

    Raises:
        DamagedImageError: a record's header is damaged, unless ``damaged`` is ``skip``.
        RequestError: the source is none of these, or an image is a broken symlink, unless ``damaged`` is ``skip``.
    """
    if source.suffix == ".rec" and source.exists():
        raise RequestError(f"{source} is a record file; specify the folder that contains train.rec")
    if not source.is_dir() and source.exists():
        return _read_list(source)
    if (source / "train.rec").exists():
        names, *record_parts = find(source, damaged)
        return names, [
            Part(part.path.stem, part.store, part.labels, part.left_out, part.origin)
            for part in record_parts
            if part is not None
        ]
    layout = folder.scan(source)
    listings = [("train", layout.train)] + ([("test", layout.test)] if layout.test is not None else [])
    parts = []
    for name, listing in listings:
        left_out = dict.fromkeys(listing.broken_links, "it is a broken symlink")
        if left_out and damaged == "stop":
            raise RequestError(f"{listing.broken_links[0]} is a broken symlink; restore its target, or remove it")
        parts.append(Part(name, folder.FileStore(listing.paths), listing.labels, left_out, listing.origin))
    return layout.class_names, parts


def _read_list(path: Path) -> tuple[tuple[str, ...], list[Part]]:
    """Read a text file with lines of path, tab, class, or MXNet's key, tab, label, tab, path."""
    try:
        # File names may not be UTF-8; in class names, such bytes are escaped.
        text = read_regular(path, _LIST_LIMIT).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    lines = enumerate((line.removesuffix("\r") for line in text.split("\n")), start=1)
    rows = [(number, line.split("\t")) for number, line in lines if line.strip()]
    if not rows:
        raise RequestError(f"{path} lists no image")
    columns = len(rows[0][1])
    for number, row in rows:
        if len(row) not in (2, 3) or len(row) != columns or not all(row):
            hint = "; several labels per image are not supported" if len(row) > 3 else ""
            fault = f"{len(row)} columns" if all(row) else "an empty column"
            raise RequestError(
                f"line {number} of {path} has {fault}; expected path, tab, class on each line, or key, tab, label, tab, path "
                f"on each{hint}"
            )
    paths = [path.parent / row[-1 if columns == 3 else 0] for _, row in rows]
    if columns == 3:
        labels = np.array([_label(row[1], number, path) for number, row in rows], np.int32)
        names = numbered_names(path.parent / CLASSES, int(labels.max()), len(labels), str(path))
    else:
        classes = [folder.class_name(row[1]) for _, row in rows]
        names = tuple(sorted(set(classes)))
        place = {name: label for label, name in enumerate(names)}
        labels = np.array([place[name] for name in classes], np.int32)
    return names, [Part("train", folder.FileStore(paths), labels, origin=f"from {path}")]


def _label(text: str, line: int, path: Path) -> int:
    """Parse a label; MXNet's tools write it with six decimal zeros."""
    match = _LABEL.fullmatch(text.strip())
    if match is None or int(match[1]) >= MAX_LABELS:
        raise RequestError(f"line {line} of {path} has the label {text[:40]!r}; expected an integer from 0 on")
    return int(match[1])


class Checked(NamedTuple):
    """Result of a check.

    Attributes:
        total: number of images.
        lines: summary of each part.
        damage: error of each damaged image, and the error that makes the data set unusable.
        warnings: about the classes.
    """

    total: int
    lines: list[str]
    damage: list[str]
    warnings: list[str]


def check(path: Path, threads: int, advance: Callable[[int], object]) -> Checked:
    """Decode every image of a record file, a folder of record files, a list file or a folder of images.

    Raises:
        RequestError: the path is none of these.
    """
    damage: list[str] = []
    if path.suffix == ".rec" and path.exists() or any(path.glob("*.rec")):
        names, parts = _records_to_check(path, damage)
    else:
        names, parts = listed_parts(path, "skip")
    problem, warnings = check_classes(names, parts) if names is not None else (None, [])
    damage += [problem] if problem is not None else []
    damage += [f"{name}: {reason}" for part in parts for name, reason in part.left_out.items()]
    for part in parts:
        for _, content in transformed(part.store, 0, Transform(None, None), threads, RequestError):
            if isinstance(content, RequestError):
                damage.append(str(content))
            advance(1)
    lines = [f"{part.name}: {part_line(part.labels, names, part.origin)}" for part in parts] if names is not None else []
    return Checked(sum(len(part.store) + len(part.left_out) for part in parts), lines, damage, warnings)


def check_classes(names: tuple[str, ...], parts: Sequence[Part]) -> Findings:
    """Check the classes of parts, of which the first is the training part."""
    return findings(names, parts[0].labels, parts[1].labels if len(parts) > 1 else None)


def _records_to_check(path: Path, damage: list[str]) -> tuple[tuple[str, ...] | None, list[Part]]:
    """The class names, if there are any, and the readable images of a record file or of all record files in a folder."""
    files = [path] if path.suffix == ".rec" else sorted(path.glob("*.rec"))
    readable: list[RecordPart] = []
    for file in files:
        try:
            readable.append(RecordPart(file, "skip"))
        except RequestError as error:
            damage.append(str(error))
    parts = [Part(part.path.stem, part.store, part.labels, part.left_out, part.origin) for part in readable]
    names = None
    if not damage and path.is_dir():
        try:
            names, *_ = find(path, "skip")
        except RequestError as error:
            damage.append(str(error))
    return names, sorted(parts, key=lambda part: part.name != "train")
