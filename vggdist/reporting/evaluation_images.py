"""Pictures of an evaluation, drawn with Pillow.

All ranks wait while rank 0 draws; matplotlib would need a second for its import and 0.1 s for each picture.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import distribution
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vggdist.config.text import printable

THUMBNAIL = 128
"""Side in pixels of the images in :func:`mistakes`."""
_LINE, _GAP, _COLUMNS = 16, 8, 6
_LONGEST_NAME = 160
"""Maximum width in pixels of a class name beside a matrix."""
_MATRIX, _NAMED_CELL, _COUNTED_CLASSES, _COUNTED_CELL = 840, 12, 15, 44
_FAINTEST = 0.12
_WHITE, _BLUE, _RED, _GREY, _LINES = (255, 255, 255), (8, 69, 148), (165, 15, 21), (90, 90, 90), (225, 225, 225)


class Mistake(NamedTuple):
    """A misclassified image.

    Attributes:
        image: ``(S, S, C) uint8``, S at most :data:`THUMBNAIL`.
        true, predicted: names of classes.
        probability: of the predicted class.
    """

    image: NDArray[np.uint8]
    true: str
    predicted: str
    probability: float


def confusion_matrix(
    confusion: Sequence[Sequence[int]] | NDArray[np.int64], class_names: Sequence[str], title: str
) -> Image.Image:
    """A confusion matrix: the diagonal blue, mistakes red, darker for a larger share of the row; a single image is visible.

    Up to 15 classes have counts in the cells, up to 70 have names.

    Args:
        confusion: ``(K, K)`` counts, a row for each true class.
    """
    counts = np.asarray(confusion)
    classes = len(counts)
    cell = _COUNTED_CELL if classes <= _COUNTED_CLASSES else max(1, min(26, _MATRIX // classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    strength = np.where(counts > 0, _FAINTEST + (1 - _FAINTEST) * np.sqrt(shares), 0)
    matrix = Image.fromarray(_cells(strength, cell))
    if classes <= _COUNTED_CLASSES:
        _write_counts(matrix, counts, strength, cell)
    names = [_fitting(name, _font(12), _LONGEST_NAME) for name in class_names] if cell >= _NAMED_CELL else []
    margin = 2 * _GAP + max((round(_font(12).getlength(name)) for name in names), default=0)
    left, top = _LINE + margin, 2 * _LINE
    wide = max(left + matrix.width + _GAP, round(_font(14).getlength(title)) + 2 * _GAP)
    picture = Image.new("RGB", (wide, top + matrix.height + margin + _LINE + _GAP), _WHITE)
    picture.paste(matrix, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 1, top - 1, left + matrix.width, top + matrix.height), outline=_LINES)
    draw.text((_GAP, _GAP), title, "black", _font(14))
    for number, name in enumerate(names):
        middle = number * cell + cell // 2
        draw.text((left - _GAP, top + middle), name, "black", _font(12), anchor="rm")
        _write_upwards(picture, name, left + middle, top + matrix.height + _GAP, "black")
    draw.text((left + matrix.width // 2, picture.height - _GAP), "predicted class", _GREY, _font(12), anchor="ms")
    _write_upwards(picture, "true class", _LINE // 2 + 1, top + matrix.height // 2 - 30, _GREY)
    return picture


def mistakes(found: Sequence[Mistake], title: str) -> Image.Image:
    """A grid of images, each with its true class above the predicted one and its probability."""
    tile = THUMBNAIL + _GAP, THUMBNAIL + 2 * _LINE + _GAP
    columns, rows = min(_COLUMNS, len(found)), -(-len(found) // _COLUMNS)
    wide = max(columns * tile[0] + _GAP, round(_font(14).getlength(title)) + 2 * _GAP)
    picture = Image.new("RGB", (wide, 2 * _LINE + rows * tile[1]), _WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, _GAP), title, "black", _font(14))
    for number, one in enumerate(found):
        left, top = _GAP + number % _COLUMNS * tile[0], 2 * _LINE + number // _COLUMNS * tile[1]
        picture.paste(_enlarged(one.image), (left, top))
        percent = f" {100 * one.probability:.0f} %"
        room = THUMBNAIL - round(_font(12).getlength(percent))
        draw.text((left, top + THUMBNAIL), _fitting(one.true, _font(12), THUMBNAIL), _BLUE, _font(12))
        draw.text((left, top + THUMBNAIL + _LINE - 1), _fitting(one.predicted, _font(12), room) + percent, _RED, _font(12))
    return picture


def _cells(strength: NDArray[np.float64], cell: int) -> NDArray[np.uint8]:
    """``(K, K)`` strengths of colour from 0 to 1 to ``(K * cell, K * cell, 3) uint8``, with a line around large cells."""
    full = np.where(np.eye(len(strength), dtype=bool)[..., None], _BLUE, _RED)
    colours = np.rint(255 + (full - 255) * strength[..., None]).astype(np.uint8)
    cells = colours.repeat(cell, axis=0).repeat(cell, axis=1)
    if cell >= _NAMED_CELL:
        cells[::cell], cells[:, ::cell] = _LINES, _LINES
    return cells


def _write_counts(matrix: Image.Image, counts: NDArray[np.int64], strength: NDArray[np.float64], cell: int) -> None:
    draw = ImageDraw.Draw(matrix)
    for row, column in np.argwhere(counts).tolist():
        count = int(counts[row, column])
        text = str(count) if count < 100_000 else f"{count / 1e6:.3g}M"
        colour = "white" if strength[row, column] > 0.6 else "black"
        draw.text((column * cell + cell // 2, row * cell + cell // 2), text, colour, _font(12), anchor="mm")


def _write_upwards(picture: Image.Image, text: str, middle: int, top: int, colour: str | tuple[int, int, int]) -> None:
    """Write text that is rotated by 90 degrees, reading upwards, with its end at ``top``."""
    line = Image.new("RGB", (round(_font(12).getlength(text)) + 1, _LINE), _WHITE)
    ImageDraw.Draw(line).text((0, _LINE // 2), text, colour, _font(12), anchor="lm")
    picture.paste(line.transpose(Image.Transpose.ROTATE_90), (middle - _LINE // 2, top))


def _enlarged(image: NDArray[np.uint8]) -> Image.Image:
    """A small image, enlarged by an integer factor without interpolation."""
    factor = max(1, THUMBNAIL // len(image))
    pixels = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text on one line, truncated to at most ``width`` pixels."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib contains; matplotlib is not imported."""
    path = distribution("matplotlib").locate_file("matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)
