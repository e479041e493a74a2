"""Figures, for a person and for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboardX.summary import image

from vggdist.reporting.events import EventFile

_DOTS_PER_INCH = 120


def publish(figure: Figure, directory: Path, name: str) -> Path:
    """Write a figure to ``directory / <name>.png`` and, as an image of that name, to ``directory / tensorboard``.

    Returns:
        The path of the PNG file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.png"
    figure.set_dpi(_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(path)
    events = EventFile(directory / "tensorboard", f".{name}")
    events.summary(0, image(name, np.asarray(canvas.buffer_rgba())[..., :3], dataformats="HWC"))
    events.close()
    return path
