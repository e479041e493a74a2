"""Image decoding, optionally at a reduced size, and conversion between grey and RGB."""

from __future__ import annotations

import io
import re
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vggdist.config.errors import RequestError
from vggdist.config.files import read_regular
from vggdist.config.text import printable
from vggdist.data.jpeg import decode_jpeg, decode_top, read_header

_HAS_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
# ITU-R BT.601 luma in units of 2^-16 as in Pillow (L24 in its Convert.c), so that Pillow and convert_channels give the same
# grey image.
_LUMA = np.array([19595, 38470, 7471], np.uint32)
_MAX_PIXELS = 2 * 89_478_485  # Pillow rejects larger images as decompression bombs
_MAX_BYTES = 2**29  # of a file or record; about the size of an uncompressed image of _MAX_PIXELS
_SCRATCH_BYTES = 48 * 2**20  # maximum size of the buffer that a thread keeps
_ORIENTATION = 0x0112  # EXIF tag
# The encoded tag with one 16-bit value from 2 to 8, in either byte order. Parsing EXIF data takes 0.5 ms, so it is done only
# if this matches.
_MAY_BE_ROTATED = re.compile(
    rb"\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00|\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
)
# EXIF orientations: whether rows and columns are transposed first, and then the steps along both axes.
_UPRIGHT = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_of_thread = threading.local()
# Pillow warns of images above half of _MAX_PIXELS; they are decoded here, so the warning is of no use.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class DamagedImageError(RequestError):
    """An image cannot be decoded: it is damaged or has too many pixels.

    Attributes:
        fault: the message without the advice on data sets at its end.
    """

    def __init__(self, fault: str, advice: str = "") -> None:
        super().__init__(f"{fault}; {advice}" if advice else fault)
        self.fault = printable(fault)


@dataclass(frozen=True)
class Encoded:
    """An encoded image."""

    content: bytes
    """Content of the file. It determines the format, because real data sets contain PNG files named ``.JPEG``."""
    name: str
    """Name for messages: the path, or the record file and the key."""


def read_file(path: Path) -> Encoded:
    """Read a file.

    Raises:
        RequestError: it cannot be read. This is not ``DamagedImageError``: after a transient network fault, one rank must not
            leave out a file that the others train on.
    """
    try:
        return Encoded(read_regular(path, _MAX_BYTES), printable(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def decode(image: Path | Encoded, channels: int) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG image, rotated according to its EXIF orientation.

    Transparent pixels are blended with white, 16-bit values are reduced to their high byte, CMYK and palettes become RGB.

    Args:
        channels: 1 for grey (ITU-R BT.601 luma), 3 for RGB.

    Returns:
        ``(H, W, channels) uint8``.

    Raises:
        DamagedImageError: the content is not a complete JPEG or PNG image.
        RequestError: the file cannot be read.
    """
    return LazyImage(read_file(image) if isinstance(image, Path) else image).pixels(channels)


class LazyImage:
    """An encoded image whose size is known before its pixels are decoded.

    Grey and RGB JPEG files are decoded by libjpeg-turbo, optionally at a reduced size. Everything else (PNG, CMYK, files with
    libjpeg-turbo warnings) is decoded by Pillow at full size, which also determines whether it is damaged.
    """

    def __init__(self, encoded: Encoded) -> None:
        """Read the header; ``DamagedImageError`` if it is neither JPEG nor PNG."""
        self._encoded, self._decoded = encoded, np.empty(0, np.uint8)
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(encoded.content)
            self._is_plain = space in ("YCbCr", "RGB", "Gray") and height * width <= _MAX_PIXELS
        except ValueError:
            self._is_plain = False
        if self._is_plain:
            self._header = read_header(encoded.content)
            self._orientation = _orientation(self._header.exif)
            self.height, self.width = (width, height) if _UPRIGHT[self._orientation][0] else (height, width)
        else:
            self._decode_by_pillow()

    def pixels(self, channels: int, divisor: int = 1, above: int | None = None) -> NDArray[np.uint8]:
        """Decode the image, upright.

        Args:
            channels: 1 or 3.
            divisor: 2, 4 or 8 reduces height and width by about this factor if the format supports it; the shape of the
                result shows whether it did. Each pixel is then the mean of a square of pixels, by JPEG's scaled inverse DCT.
            above: decode only the rows above this row of the full image. The rows below it are undefined, and the result may
                be a buffer of this thread that its next call overwrites.

        Returns:
            ``(H, W, channels) uint8``.
        """
        if self._is_plain:
            try:
                decoded = self._decode_by_turbo(divisor, above)
                return convert_channels(decoded, channels)
            except ValueError:  # also raised for warnings; Pillow determines whether the image is damaged
                self._is_plain = False
                self._decode_by_pillow()
        return convert_channels(self._decoded, channels)

    def _decode_by_turbo(self, divisor: int, above: int | None) -> NDArray[np.uint8]:
        transposed, rows, columns = _UPRIGHT[self._orientation]
        height, width = (self.width, self.height) if transposed else (self.height, self.width)
        content, buffer = self._encoded.content, None if above is None else _buffer(height * width * 3)
        if above is not None and buffer is not None and self._orientation == 1:
            return decode_top(content, self._header, height, width, above, divisor, buffer)
        image = decode_jpeg(content, height, width, divisor, buffer)
        if self._orientation == 1:
            return image
        return np.ascontiguousarray((image.swapaxes(0, 1) if transposed else image)[::rows, ::columns])

    def _decode_by_pillow(self) -> None:
        content, name = self._encoded.content, self._encoded.name
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                upright = ImageOps.exif_transpose(image)
                grey = upright.mode in ("L", "1", "I;16", "I")
                pixels = np.asarray(_in_mode(upright, "L" if grey else "RGB"))
        except MemoryError:  # does not mean that the file is damaged
            raise
        except Image.DecompressionBombError as error:  # the file may be intact
            raise DamagedImageError(
                f"{name} ({len(content)} bytes) has more than the supported {_MAX_PIXELS} pixels",
                "scale it down, or leave it out with --data.damaged skip",
            ) from error
        except Exception as error:  # for damaged files, Pillow's parsers raise many types: SyntaxError, KeyError
            reason = "its content is neither JPEG nor PNG" if isinstance(error, Image.UnidentifiedImageError) else error
            raise DamagedImageError(
                f"{name} ({len(content)} bytes) does not decode: {reason}",
                "replace or remove it, or leave out damaged images with --data.damaged skip; vggdist prepare --check lists "
                "them",
            ) from error
        self._decoded = pixels.reshape(*pixels.shape[:2], -1)
        self.height, self.width = self._decoded.shape[:2]


def _buffer(size: int) -> NDArray[np.uint8] | None:
    """This thread's buffer of at least ``size`` bytes; None if ``size`` exceeds ``_SCRATCH_BYTES``."""
    if size > _SCRATCH_BYTES:
        return None
    kept = getattr(_of_thread, "buffer", None)
    if kept is None or kept.size < size:
        kept = _of_thread.buffer = np.empty(max(size, 2**20), np.uint8)
    return kept


def _orientation(exif: bytes | None) -> int:
    """The orientation in EXIF data, from 1 to 8; 1 if it is missing or invalid."""
    value = None
    if exif is not None and _MAY_BE_ROTATED.search(exif):
        tags = Image.Exif()
        with suppress(Exception):  # damaged EXIF data, for which Pillow raises exceptions of many types, are ignored
            tags.load(exif)
            value = tags.get(_ORIENTATION)
    return value if value in _UPRIGHT else 1


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any of Pillow's modes to ``L`` or ``RGB``."""
    if image.mode.startswith("I"):  # Pillow clips 16-bit grey to 255 instead of scaling it
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in _HAS_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def convert_channels(images: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Convert grey to RGB by repetition, or RGB to grey by ITU-R BT.601 luma, exactly as Pillow does.

    Args:
        images: ``(..., C) uint8`` with C of 1 or 3.
        channels: 1 or 3.

    Returns:
        ``(..., channels) uint8``; the same array if it has this number of channels.
    """
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    grey = np.empty((*images.shape[:-1], 1), np.uint8)
    # Image by image: the 32-bit sums of a data set would take four times its memory.
    for source, target in zip(images, grey, strict=True):
        target[..., 0] = (source @ _LUMA + 0x8000) >> 16
    return grey
