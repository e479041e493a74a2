"""The content of an image file to pixels, at the scale that is needed, and from one number of channels to another."""

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
from PIL import Image, ImageOps

from vggdist.config.errors import RequestError
from vggdist.config.files import read_regular
from vggdist.config.text import printable
from vggdist.data.jpeg import decode_jpeg, decode_top, read_header

_HAS_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
# ITU-R BT.601 luma in units of 2^-16 as in Pillow (L24 in its Convert.c), so that a grey image is the same whether
# Pillow or convert_channels made it.
_LUMA = np.array([19595, 38470, 7471], np.uint32)
_MAX_PIXELS = 2 * 89_478_485  # the size from which Pillow refuses an image as a decompression bomb
_MAX_BYTES = 2**29  # of a file, as of a record; an image of the most pixels, not compressed, is about as large
_SCRATCH_BYTES = 48 * 2**20  # a thread keeps no larger buffer between two images
_ORIENTATION = 0x0112  # EXIF's tag
# It, a number of 16 bits, of which there is one, from 2 to 8, in either order of bytes: to parse EXIF data takes 0.5 ms.
_MAY_BE_TURNED = re.compile(
    rb"\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00|\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
)
# Of EXIF's eight orientations: whether rows and columns are exchanged first, and the steps along both axes after that.
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
# From half of _MAX_PIXELS on Pillow warns of a bomb; such an image is decoded here, and there is nothing to do about it.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class DamagedImageError(RequestError):
    """An image that cannot be decoded: its content is damaged, or has too many pixels.

    Attributes:
        fault: what is wrong, without the advice for a data set that follows it in the message.
    """

    def __init__(self, fault: str, advice: str = "") -> None:
        super().__init__(f"{fault}; {advice}" if advice else fault)
        self.fault = printable(fault)


@dataclass(frozen=True)
class Encoded:
    """An image that is not decoded yet."""

    content: bytes
    """What the file holds; it decides the format, since real data sets hold PNG files named ``.JPEG``."""
    name: str
    """How a person finds it: its path, or the record file and its key."""


def read_file(path: Path) -> Encoded:
    """Read a file.

    Raises:
        RequestError: it cannot be read at all. This is never "damaged": a passing network fault must not make one rank
            leave out a file that the others train on.
    """
    try:
        return Encoded(read_regular(path, _MAX_BYTES), printable(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def decode(image: Path | Encoded, channels: int) -> np.ndarray:
    """Decode a JPEG or PNG image upright, as its EXIF orientation says.

    Transparent pixels are laid on white, 16-bit values keep their high byte, CMYK and palettes become RGB.

    Args:
        channels: 1 for grey (ITU-R BT.601 luma), 3 for RGB.

    Returns:
        ``(H, W, channels) uint8``.

    Raises:
        DamagedImageError: the content is not a whole JPEG or PNG image.
        RequestError: the file cannot be read.
    """
    return Photograph(read_file(image) if isinstance(image, Path) else image).pixels(channels)


class Photograph:
    """An encoded image whose size is known before its pixels are decoded.

    An ordinary JPEG is decoded by libjpeg-turbo, at a fraction of its size if that suffices. Everything else (PNG, CMYK, what
    libjpeg-turbo warns of) is left to Pillow, which decodes it whole, and decides whether it is damaged.
    """

    def __init__(self, encoded: Encoded) -> None:
        """Read the header; ``DamagedImageError`` where it is neither JPEG nor PNG."""
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

    def pixels(self, channels: int, divisor: int = 1, above: int | None = None) -> np.ndarray:
        """The image, upright.

        Args:
            channels: 1 or 3.
            divisor: 2, 4 or 8 for an image of about that fraction of the size, where the format can do so cheaply: see the
                shape of the result. Each pixel is then the mean of a square of pixels, as JPEG's transform gives it.
            above: only what is above this row of the whole image is wanted. The rows below it may hold anything, and the
                result may lie in a buffer of this thread that its next call overwrites.

        Returns:
            ``(H, W, channels) uint8``.
        """
        if self._is_plain:
            try:
                decoded = self._decode_by_turbo(divisor, above)
                return convert_channels(decoded, channels)
            except ValueError:  # a warning is enough: Pillow knows which images are whole none the less
                self._is_plain = False
                self._decode_by_pillow()
        return convert_channels(self._decoded, channels)

    def _decode_by_turbo(self, divisor: int, above: int | None) -> np.ndarray:
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
        except MemoryError:  # says nothing of the file
            raise
        except Image.DecompressionBombError as error:  # it may well be whole
            raise DamagedImageError(
                f"{name} ({len(content)} bytes) has more than {_MAX_PIXELS} pixels, the most that are decoded",
                "scale it down, or leave it out with --data.damaged skip",
            ) from error
        except Exception as error:  # Pillow answers damage with whatever its parsers run into: SyntaxError, KeyError
            reason = "its content is neither JPEG nor PNG" if isinstance(error, Image.UnidentifiedImageError) else error
            raise DamagedImageError(
                f"{name} ({len(content)} bytes) does not decode: {reason}",
                "replace or remove it, or leave out all that is damaged with --data.damaged skip; vggdist prepare --check "
                "lists them",
            ) from error
        self._decoded = pixels.reshape(*pixels.shape[:2], -1)
        self.height, self.width = self._decoded.shape[:2]


def _buffer(size: int) -> np.ndarray | None:
    """This thread's buffer of at least ``size`` bytes, or None for an image that is too large to keep one for."""
    if size > _SCRATCH_BYTES:
        return None
    kept = getattr(_of_thread, "buffer", None)
    if kept is None or kept.size < size:
        kept = _of_thread.buffer = np.empty(max(size, 2**20), np.uint8)
    return kept


def _orientation(written: bytes | None) -> int:
    """The orientation in EXIF data, from 1 to 8; 1 where there are none, or nonsense."""
    found = None
    if written is not None and _MAY_BE_TURNED.search(written):
        tags = Image.Exif()
        with suppress(Exception):  # damaged EXIF data, for which Pillow has many answers, are none
            tags.load(written)
            found = tags.get(_ORIENTATION)
    return found if found in _UPRIGHT else 1


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any of Pillow's modes to ``L`` or ``RGB``."""
    if image.mode.startswith("I"):  # Pillow would clip 16-bit grey to 255 instead of scaling it
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in _HAS_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


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
