"""One image file to pixels: any format and mode that Pillow reads, upright, three channels of 8 bits, one size.

Both stages read pictures with it, so that a network is asked about pictures just as it learnt from them. A JPEG that is
already of that size and has nothing special about it (no EXIF, no Adobe colours, not truncated) goes straight through
OpenCV, if that is there: the same libjpeg-turbo, the same bytes, a quarter of the time. Everything else is Pillow's.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from stores.errors import IntegrityError

cv2: Any = importlib.import_module("cv2") if importlib.util.find_spec("cv2") is not None else None
BACKGROUND = 127  # where an image is transparent: the mid-grey that CutOut also uses
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error)
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class BrokenImage(Exception):
    """The bytes are no image, or not a whole one; says what Pillow said."""


def load(file: str, shape: tuple[int, int]) -> np.ndarray:
    """`pixels` of a file: uint8 [height, width, 3].

    Raises:
        IntegrityError: it cannot be read or is broken; names it.
    """
    try:
        return pixels(contents(file), shape)
    except BrokenImage as error:
        raise broken(file, error) from error


def contents(file: str) -> bytes:
    """A file's bytes.

    Raises:
        IntegrityError: it cannot be read.
    """
    try:
        with io.FileIO(file) as opened:
            return opened.readall()
    except OSError as error:
        raise IntegrityError(f"cannot read '{file}'", error.strerror or "") from error


def broken(file: str, error: BrokenImage) -> IntegrityError:
    """The error that names the file."""
    return IntegrityError(f"broken image '{file}'", str(error), "mend or remove it")


def size(data: bytes) -> tuple[int, int]:
    """(height, width) of the upright image, from its header alone.

    Raises:
        BrokenImage: not an image.
    """
    plain = _plain_jpeg(data)
    if plain:
        return plain
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise BrokenImage(_reason(error)) from error
    return (width, height) if turned else (height, width)


def pixels(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Decode and fit into (height, width).

    An image of another size is cropped in the middle to the target's aspect and resized with antialiasing (Lanczos).
    Transparency is laid over mid-grey; 16 bits are scaled to 8; the EXIF orientation is applied; of an animation the
    first frame counts.

    Returns:
        uint8 [height, width, 3].

    Raises:
        BrokenImage: the bytes do not decode to a whole image.
    """
    if cv2 is not None and _plain_jpeg(data) == shape and data.endswith(b"\xff\xd9"):
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if decoded is not None:
            return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    height, width = shape
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (2 * max(shape), 2 * max(shape)))  # a huge JPEG is decoded at a smaller scale, not below
            upright = ImageOps.exif_transpose(_in_colour(image))
        if upright.size != (width, height):
            upright = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
        return np.asarray(upright)
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise BrokenImage(_reason(error)) from error


def _in_colour(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: save it with 8 or 16 bits")
    if image.mode in _SIXTEEN_BITS:
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        grey = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        grey.info, grey._exif = image.info, image.getexif()
        return grey.convert("RGB")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        flat = Image.new("RGBA", clear.size, (BACKGROUND,) * 3 + (255,))
        return Image.alpha_composite(flat, clear).convert("RGB")
    return image.convert("RGB")


def _plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG whose segments up to the frame header are the usual ones; otherwise None.

    The usual ones: JFIF (APP0), tables, comment, and a frame of one or three 8-bit components (ITU-T T.81 B.1.1.3).
    JFIF fixes the colours (YCbCr or grey); EXIF (an orientation) and Adobe (other colours) come in other segments.
    """
    if data[:4] != b"\xff\xd8\xff\xe0":
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return (height, width) if bits == 8 and height and width and components in (1, 3) else None
        if marker not in (0xE0, 0xDB, 0xC4, 0xDD, 0xFE):
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _reason(error: Exception) -> str:
    # Pillow names the buffer that it could not identify; the caller names the file.
    return "not an image that Pillow knows" if "cannot identify" in str(error) else str(error)
