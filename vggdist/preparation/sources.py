"""What ``vggdist prepare`` is given: a folder, a list file, or record files; as images and labels, or checked."""

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
from vggdist.data.recordio import MOST_LABELS
from vggdist.data.sanity_checks import Findings, findings, part_line
from vggdist.preparation.conversion import Change, Part, changed

_LIST_LIMIT = 2**30  # bytes of a list file: about ten million lines
_LABEL = re.compile(r"([0-9]{1,8})(\.0*)?")


def listed_parts(source: Path, damaged: str = "stop") -> tuple[tuple[str, ...], list[Part]]:
    """The class names and the images of a folder, a list file or a folder of record files.

    Raises:
        DamagedImageError: a record's header is damaged, unless ``damaged`` is ``skip``.
        RequestError: it is none of them, or an image is a link to nothing, unless ``damaged`` is ``skip``.
    """
    if source.suffix == ".rec" and source.exists():
        raise RequestError(f"{source} is one record file; give the folder that holds train.rec")
    if not source.is_dir() and source.exists():
        return _read_list(source)
    if (source / "train.rec").exists():
        names, *found = find(source, damaged)
        return names, [
            Part(part.path.stem, part.store, part.labels, part.left_out, part.origin) for part in found if part is not None
        ]
    layout = folder.scan(source)
    listings = [("train", layout.train)] + ([("test", layout.test)] if layout.test is not None else [])
    parts = []
    for name, listing in listings:
        left_out = dict.fromkeys(listing.dead_links, "it is a link to nothing")
        if left_out and damaged == "stop":
            raise RequestError(f"{listing.dead_links[0]} is a link to nothing; restore what it links to, or remove it")
        parts.append(Part(name, folder.FileStore(listing.paths), listing.labels, left_out, listing.origin))
    return layout.class_names, parts


def _read_list(path: Path) -> tuple[tuple[str, ...], list[Part]]:
    """Images and classes from the lines of a text file: path, tab, class; or MXNet's key, tab, label, tab, path."""
    try:
        # Names of files need not be UTF-8; in a class's name, such bytes are escaped.
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
            hint = "; several labels for each image are not read" if len(row) > 3 else ""
            found = f"{len(row)} columns" if all(row) else "an empty column"
            raise RequestError(
                f"line {number} of {path} has {found}; expected path, tab, class on each line, or key, tab, label, tab, path "
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
    """The number of a class; MXNet's tools write it with six zeros behind the point."""
    match = _LABEL.fullmatch(text.strip())
    if match is None or int(match[1]) >= MOST_LABELS:
        raise RequestError(f"line {line} of {path} has the label {text[:40]!r}; expected a whole number from 0 on")
    return int(match[1])


class Checked(NamedTuple):
    """What a check found.

    Attributes:
        total: number of images.
        lines: what was read, a line for each part.
        damage: a line for each damaged image, and for what makes the data set unfit to train on.
        remarks: what a person should know beside.
    """

    total: int
    lines: list[str]
    damage: list[str]
    remarks: list[str]


def check(path: Path, threads: int, advance: Callable[[int], object]) -> Checked:
    """Decode every image of a record file, a folder of record files, a list file or a folder of images.

    Raises:
        RequestError: it is none of them.
    """
    damage: list[str] = []
    if path.suffix == ".rec" and path.exists() or any(path.glob("*.rec")):
        names, parts = _records_to_check(path, damage)
    else:
        names, parts = listed_parts(path, "skip")
    problem, remarks = judged(names, parts) if names is not None else (None, [])
    damage += [problem] if problem is not None else []
    damage += [f"{name}: {reason}" for part in parts for name, reason in part.left_out.items()]
    for part in parts:
        for _, content in changed(part.store, 0, Change(None, None), threads, RequestError):
            if isinstance(content, RequestError):
                damage.append(str(content))
            advance(1)
    lines = [f"{part.name}: {part_line(part.labels, names, part.origin)}" for part in parts] if names is not None else []
    return Checked(sum(len(part.store) + len(part.left_out) for part in parts), lines, damage, remarks)


def judged(names: tuple[str, ...], parts: Sequence[Part]) -> Findings:
    """What is odd about the classes of parts, of which the first is for training."""
    return findings(names, parts[0].labels, parts[1].labels if len(parts) > 1 else None)


def _records_to_check(path: Path, damage: list[str]) -> tuple[tuple[str, ...] | None, list[Part]]:
    """The class names, where there are any, and the images of one record file or of a folder's, as far as they can be read."""
    files = [path] if path.suffix == ".rec" else sorted(path.glob("*.rec"))
    found: dict[str, RecordPart] = {}
    for file in files:
        try:
            found[file.name] = RecordPart(file, "skip")
        except RequestError as error:
            damage.append(str(error))
    parts = [Part(part.path.stem, part.store, part.labels, part.left_out, part.origin) for part in found.values()]
    names = None
    if not damage and path.is_dir():
        try:
            names, *_ = find(path, "skip")
        except RequestError as error:
            damage.append(str(error))
    return names, sorted(parts, key=lambda part: part.name != "train")
