"""Figures, for a person and for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboardX.summary import image

from vggdist.reporting.events import EventFile

_DOTS_PER_INCH = 120
_NAMED_CLASSES, _COUNTED_CLASSES = 30, 15


def publish(figure: Figure, directory: Path, name: str) -> Path:
    """Write a figure to ``directory / <name>.png`` and, as an image of that name, to ``directory / tensorboard``.

    Returns:
        The path of the PNG file.
    """
    path = directory / f"{name}.png"
    save(figure, path)
    events = EventFile(directory / "tensorboard", f".{name}")
    events.summary(0, image(name, pixels(figure), dataformats="HWC"))
    events.close()
    return path


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; ``OSError`` where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(_DOTS_PER_INCH)
    FigureCanvasAgg(figure).print_png(path)


def pixels(figure: Figure) -> np.ndarray:
    """A figure as ``(H, W, 3) uint8``."""
    figure.set_dpi(_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def confusion_matrix(confusion: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """A confusion matrix, each row coloured by its shares: of the images of a class, how many were taken for each.

    Args:
        confusion: ``(K, K)`` counts, a row for each true class. Up to 30 classes are named, up to 15 rows have their counts.
    """
    counts = np.asarray(confusion)
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(side := min(4 + 0.3 * classes, 12), side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if classes <= _NAMED_CLASSES:
        axes.set_xticks(range(classes), class_names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), class_names)
    if classes <= _COUNTED_CLASSES:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    return figure
