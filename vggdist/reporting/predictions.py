"""Predictions as text: one line for each image, even if its name contains line breaks."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.config.text import printable

Ranked = Sequence[tuple[str, float]]
"""Classes and their probabilities, the most probable first."""


class Lines:
    """Text in one of the formats ``table``, ``json`` and ``csv``."""

    def __init__(self, form: str, class_names: Sequence[str], top: int) -> None:
        """Show the ``top`` most probable classes of each image, or all if there are fewer."""
        self._names, self._top = class_names, min(top, len(class_names))
        self._width = max(map(len, class_names))
        self._line: Callable[[Path, Ranked], str] = {"table": self._table, "json": _json, "csv": _csv}[form]
        columns = [f"{column}_{place}" for place in range(1, self._top + 1) for column in ("class", "probability")]
        self.header = _row(("image", *columns)) if form == "csv" else ""

    def of(self, path: Path, probabilities: NDArray[np.float64]) -> str:
        """The line of an image, with its line break.

        Args:
            probabilities: ``(num_classes,)``.
        """
        best = np.argsort(-probabilities, kind="stable")[: self._top].tolist()
        return self._line(path, [(self._names[label], float(probabilities[label])) for label in best])

    def _table(self, path: Path, ranked: Ranked) -> str:
        cells = [f"{name:{self._width}} {100 * probability:6.2f} %" for name, probability in ranked]
        return "  ".join([*map(printable, cells), f"{printable(path)}\n"])


def _json(path: Path, ranked: Ranked) -> str:
    # Bytes that are not UTF-8 are escaped as \xNN; JSON can represent everything else.
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    line: dict[str, Any] = {"image": name}
    line["predictions"] = [{"class": one, "probability": float(f"{probability:.6g}")} for one, probability in ranked]
    return json.dumps(line) + "\n"


def _csv(path: Path, ranked: Ranked) -> str:
    return _row((printable(path), *(cell for name, probability in ranked for cell in (name, f"{probability:.6g}"))))


def _row(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
