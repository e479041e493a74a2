"""One image file to pixels, and pixels from one number of channels to another."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vggdist.config.errors import RequestError

_HAS_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
# ITU-R BT.601 luma in units of 2^-16 as in Pillow (L24 in its Convert.c), so that a grey image is the same whether
# Pillow or convert_channels made it.
_LUMA = np.array([19595, 38470, 7471], np.uint32)


class DamagedImageError(RequestError):
    """An image file whose content does not decode."""


def decode(path: Path, channels: int) -> np.ndarray:
    """Read a JPEG or PNG file upright, as its EXIF orientation says.

    Transparent pixels are laid on white, 16-bit values keep their high byte, CMYK and palettes become RGB.

    Args:
        path: the file; its content decides the format, since real data sets hold PNG files named ``.JPEG``.
        channels: 1 for grey (ITU-R BT.601 luma), 3 for RGB.

    Returns:
        ``(H, W, channels) uint8``.

    Raises:
        DamagedImageError: the content is not a whole JPEG or PNG image.
        RequestError: the file cannot be read at all. This is never "damaged": a passing network fault must not make
            one rank leave out a file that the others train on.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            pixels = np.asarray(_in_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB"))
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # Pillow answers damage with whatever its parsers run into: SyntaxError, KeyError
        reason = "its content is neither JPEG nor PNG" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DamagedImageError(
            f"{path} ({len(content)} bytes) does not decode: {reason}; replace or remove it, "
            f"or leave out such files with --data.damaged skip"
        ) from error
    return pixels[:, :, None] if channels == 1 else pixels


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any of Pillow's modes to ``L`` or ``RGB``."""
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):  # Pillow would clip 16-bit grey to 255 instead of scaling it
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in _HAS_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def convert_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Turn grey into RGB by repetition, or RGB into grey by ITU-R BT.601 luma exactly as Pillow does.

    Args:
        images: ``(..., C) uint8`` with C of 1 or 3.
        channels: 1 or 3.

    Returns:
        ``(..., channels) uint8``; the same array where nothing is to do.
    """
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    grey = np.empty((*images.shape[:-1], 1), np.uint8)
    # Image by image: the 32-bit sums of a whole data set would take four times its memory.
    for source, target in zip(images, grey, strict=True):
        target[..., 0] = (source @ _LUMA + 0x8000) >> 16
    return grey
