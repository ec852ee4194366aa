"""Who may look at a file: Pillow's decoders that are named here, up to a number of pixels, within one memory for all.

A decoder sees hostile bytes. Those named decode one picture within this process. Left out are EPS (starts Ghostscript),
WMF (the system's own renderer), BUFR, GRIB and HDF5 (whoever registered a handler), FPX and MIC (OLE containers), MPEG
(no decoder), IPTC (hands on to any other), ICO, ICNS and CUR (several pictures, each with a header of its own), and
rarities that no camera, scanner or web site writes.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from stores.errors import RealMixError
from stores.images import depth, png

NAMED = (
    "JPEG",
    "PNG",
    "WEBP",
    "TIFF",
    "GIF",
    "BMP",
    "AVIF",
    "JPEG2000",
    "PPM",
    "DIB",
    "QOI",
    "PSD",
    "DDS",
    "SGI",
    "PCX",
    "SUN",
    "TGA",
)  # asked in this order
MOST_PIXELS = 178_956_970  # half a GiB as RGB; Pillow's own limit
MEMORY = 2 << 30  # bytes that all pictures being decoded may take together; a larger one waits until it is alone
_PER_PIXEL = {"AVIF": 12, "JPEG2000": 20, "WEBP": 16}  # bytes that decoding takes at its peak, measured; the others: 8
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; 1 and every other number turn nothing
_SIDEWAYS = [_TURNS[orientation] for orientation in (5, 6, 7, 8)]

Image.init()
_FORMATS = [name for name in NAMED if name in Image.OPEN]  # an older Pillow has no AVIF
warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged metadata: what matters is an error here
warnings.simplefilter("error", Image.DecompressionBombWarning)


class BrokenImage(Exception):
    """The bytes are no image, or not a whole one, or not one that can be read; says why."""


class TooLargeImage(BrokenImage):
    """It has more pixels than may be decoded; says how many."""


class Opened(NamedTuple):
    """A picture whose header is read.

    Attributes:
        image: not yet loaded, as it lies in the file.
        turn: what makes it upright once it is loaded; None: nothing.
        size: (height, width) of the upright picture.
        bits: a sample, as far as PNG and TIFF say; 8 otherwise.
    """

    image: Image.Image
    turn: Image.Transpose | None
    size: tuple[int, int]
    bits: int


_most_pixels: int | None = None  # what the user allows
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


def allow(pixels: int) -> None:
    """Decode pictures of up to so many pixels from now on, in this process, whatever memory that takes."""
    global _most_pixels
    Image.MAX_IMAGE_PIXELS = _most_pixels = pixels


@contextmanager
def opened(data: bytes, at_least: int | None = None) -> Iterator[Opened]:
    """Read the header of a picture, and hold the memory that decoding it takes.

    Args:
        at_least: a JPEG is decoded at a smaller scale if both its sides stay as long as this.

    Raises:
        TooLargeImage: it has more pixels than are decoded.
        BrokenImage: whatever else goes wrong within, but for a lack of memory.
    """
    try:
        metadata = True
        if png.is_png(data):
            data, metadata = png.sound(data)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            each = _PER_PIXEL.get(image.format or "", 8)
            _check_size(image, each)
            picture = _opened(image, metadata)
            full = image.width * image.height
            if at_least:
                image.draft(None, (at_least, at_least))
            with _room(each * (full if "progressive" in image.info else image.width * image.height)):
                yield picture
    except (BrokenImage, MemoryError, RealMixError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(f"it is none of {', '.join(_FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeImage(f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Exception as error:  # a decoder at odds with hostile bytes raises whatever it likes
        raise BrokenImage(str(error) or type(error).__name__) from error


def _check_size(image: Image.Image, each: int) -> None:
    most = _most_pixels or min(MOST_PIXELS, MEMORY // each)
    if image.width * image.height > most:
        raise TooLargeImage(f"{image.width:,} × {image.height:,} are more than {most:,} pixels")


def _opened(image: Image.Image, metadata: bool) -> Opened:
    bits = depth.bits(image)  # a PNG forgets it when it is loaded
    width, height = image.size
    if image.format == "TIFF":  # Pillow may have swapped the sides here; it turns the picture itself when it loads it
        width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]  # type: ignore[attr-defined]
    turn = _turn(image) if metadata else None
    size = (width, height) if turn in _SIDEWAYS else (height, width)
    return Opened(image, None if image.format == "TIFF" else turn, size, bits)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """By EXIF, or XMP without it."""
    if image.format == "PNG":
        image.load()  # metadata may stand behind the pixels
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (MemoryError, RealMixError):
        raise
    except Exception:  # noqa: BLE001 (damaged metadata raises whatever it likes, and costs no good picture)
        return None


_free = MEMORY
_changed = threading.Condition()


@contextmanager
def _room(need: int) -> Iterator[None]:
    """Wait until `need` bytes of `MEMORY` are free, all of it if that is less, and keep them."""
    global _free
    need = min(need, MEMORY)
    with _changed:
        _changed.wait_for(lambda: _free >= need)
        _free -= need
    try:
        yield
    finally:
        with _changed:
            _free += need
            _changed.notify_all()
