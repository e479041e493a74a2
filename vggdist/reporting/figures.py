"""Writes figures of matplotlib to PNG files and TensorBoard."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vggdist.reporting.events import EventFile

_DOTS_PER_INCH = 120


def publish(figure: Figure, directory: Path, name: str) -> Path:
    """Write a figure to ``directory / <name>.png`` and, as an image of that name, to TensorBoard's run ``bench`` below it.

    The folder of its own keeps the events separate from those of a training in ``directory``.

    Returns:
        The path of the PNG file.
    """
    path = directory / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(_DOTS_PER_INCH)
    FigureCanvasAgg(figure).print_png(path)
    events = EventFile(directory / "bench", f".{name}")
    with Image.open(path) as picture:
        events.image(0, name, picture.convert("RGB"))
    events.close()
    return path
