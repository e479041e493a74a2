"""What was read of a data set, in one line for each part, and whether the parts make sense together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Findings(NamedTuple):
    """What is odd about a data set: what forbids to train on it, and what a person should know."""

    problem: str | None
    remarks: list[str]


def part_line(labels: np.ndarray, class_names: tuple[str, ...], origin: str) -> str:
    """A part in one line: images, classes, and the smallest and largest of those that occur.

    Args:
        labels: ``(N,)`` whole numbers.
        origin: where the images are from, and what beside them was ignored; may be empty.
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


def findings(class_names: tuple[str, ...], train: np.ndarray, test: np.ndarray | None) -> Findings:
    """Judge the classes of a data set.

    Args:
        train, test: ``(N,)`` labels of the parts; ``test`` is None where there is no such part.
    """
    known, measured = (set(np.unique(labels).tolist()) for labels in (train, test if test is not None else train))
    problem = None
    if len(class_names) < 2:
        problem = f"there is one class, {class_names[0]}: a classifier needs two; expected a folder or a label for each"
    elif test is not None and not len(test):
        problem = (
            "no image is left to test on: each class has one image, and none of them can be held out; add images, or a test "
            "set of their classes"
        )
    elif unknown := [class_names[label] for label in sorted(measured - known)]:
        problem = f"the test set has images of {_some(unknown)}, of which the training set has none"
    remarks = []
    for part, labels, consequence in (
        ("training", known, "the network learns to predict the others only"),
        ("test", measured, "nothing is measured for them, and macro_f1 counts one that is predicted as 0"),
    ):
        absent = [name for label, name in enumerate(class_names) if label not in labels]
        if absent and problem is None:
            remarks.append(f"the {part} set has no image of {_some(absent)}, of {len(class_names)} classes: {consequence}")
    return Findings(problem, remarks)


def few(things: Sequence[str]) -> str:
    """The first five of them, and how many more there are."""
    return ", ".join(things[:5]) + (f" and {len(things) - 5} more" if len(things) > 5 else "")


def _some(names: list[str]) -> str:
    return f"{_number(len(names), 'class')} ({few(names)})"


def _number(count: int, what: str) -> str:
    if count != 1:
        what += "es" if what.endswith("s") else "s"
    return f"{count} {what}"
