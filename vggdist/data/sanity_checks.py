"""Plausibility checks of the classes of a data set, and a one-line summary of each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Findings(NamedTuple):
    """Result of the checks: the error that makes the data set unusable, and warnings."""

    problem: str | None
    warnings: list[str]


def part_line(labels: NDArray[np.int32], class_names: tuple[str, ...], origin: str) -> str:
    """Summarise a part in one line: number of images and classes, the smallest and the largest class.

    Args:
        labels: ``(N,)`` integers.
        origin: description of the location of the images and of ignored files; may be empty.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    occurs = np.flatnonzero(counts)
    line = f"{_number(len(labels), 'image')} in {_number(len(occurs), 'class')}"
    if len(occurs) > 1:
        smallest, largest = (occurs[place] for place in (counts[occurs].argmin(), counts[occurs].argmax()))
        if counts[smallest] == counts[largest]:
            line += f", {counts[smallest]} of each"
        else:
            line += f", from {counts[smallest]} ({class_names[smallest]}) to {counts[largest]} ({class_names[largest]})"
    return f"{line}; {origin}" if origin else line


def findings(class_names: tuple[str, ...], train: NDArray[np.int32], test: NDArray[np.int32] | None) -> Findings:
    """Check the classes of a data set.

    Args:
        train, test: ``(N,)`` labels of the parts; ``test`` is None if there is no test part.
    """
    known, measured = (set(np.unique(labels).tolist()) for labels in (train, test if test is not None else train))
    problem = None
    if len(class_names) < 2:
        problem = f"there is only one class, {class_names[0]}; a classifier needs at least two (one folder or label per class)"
    elif test is not None and not len(test):
        problem = (
            "the test set would be empty: each class has only one image, so none can be held out; add images, or a test set "
            "of the same classes"
        )
    elif unknown := [class_names[label] for label in sorted(measured - known)]:
        problem = f"the test set has images of {_classes(unknown)} without training images"
    warnings = []
    for part, labels, consequence in (
        ("training", known, "the network learns to predict the others only"),
        ("test", measured, "they are not evaluated, and in macro_f1 such a class counts as 0 if it is predicted"),
    ):
        absent = [name for label, name in enumerate(class_names) if label not in labels]
        if absent and problem is None:
            warnings.append(f"the {part} set has no image of {_classes(absent)}, of {len(class_names)} classes: {consequence}")
    return Findings(problem, warnings)


def abbreviated(names: Sequence[str]) -> str:
    """Join the first five names, and append the number of the others."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _classes(names: list[str]) -> str:
    return f"{_number(len(names), 'class')} ({abbreviated(names)})"


def _number(count: int, what: str) -> str:
    if count != 1:
        what += "es" if what.endswith("s") else "s"
    return f"{count} {what}"
