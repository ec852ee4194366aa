"""The decoders of Pillow that may open a file, with limits on pixels and memory.

Files may be hostile. The formats listed decode one image within this process. Left out are EPS (starts Ghostscript),
WMF (the system's renderer), BUFR, GRIB and HDF5 (registered handlers), FPX and MIC (OLE containers), MPEG (no decoder),
IPTC (passes on to other decoders), ICO, ICNS and CUR (several images, each with a header), and rare formats.
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
)  # tried in this order
MOST_PIXELS = 178_956_970  # half a GiB as RGB; Pillow's own limit
_PER_PIXEL = {"AVIF": 12, "JPEG2000": 20, "WEBP": 16}  # measured peak bytes per pixel while decoding; others: 8
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; all other values mean upright
SIDEWAYS = [_TURNS[orientation] for orientation in (5, 6, 7, 8)]

Image.init()
_FORMATS = [name for name in NAMED if name in Image.OPEN]  # older versions of Pillow have no AVIF
COMMON = 6  # formats that an error names
warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged metadata; what matters is an error here
warnings.simplefilter("error", Image.DecompressionBombWarning)


class BrokenImage(Exception):
    """The bytes are not an image, not a complete one, or not one that can be read; says why."""


class TooLargeImage(BrokenImage):
    """The image has more pixels than may be decoded; says how many."""


class Opened(NamedTuple):
    """An image whose header has been read.

    Attributes:
        image: not yet loaded, and not turned upright.
        turn: the transposition that turns it upright; None: none is needed.
        size: (height, width) of the upright image.
        bits: per sample, of PNG and TIFF; 8 for other formats.
        scale: that it is decoded at: 1, 2, 4 or 8 stands for 1, 1/2, 1/4 or 1/8, sides rounded up.
    """

    image: Image.Image
    turn: Image.Transpose | None
    size: tuple[int, int]
    bits: int
    scale: int = 1


most_pixels: int | None = None  # set by the user
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


class Memory:
    """Bytes that all images being decoded share; one that needs more than there are waits until it is alone.

    Args:
        size: the bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, need: int) -> Iterator[None]:
        """Wait until `need` bytes, at most all of them, are free, and hold them within the block."""
        need = min(need, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self.free >= need)
            self.free -= need
        try:
            yield
        finally:
            with self._changed:
                self.free += need
                self._changed.notify_all()


memory = Memory(2 << 30)


def allow(pixels: int) -> None:
    """Allow images of up to this many pixels in this process, whatever memory they take."""
    global most_pixels
    Image.MAX_IMAGE_PIXELS = most_pixels = pixels


@contextmanager
def opened(data: bytes, at_least: int | None = None) -> Iterator[Opened]:
    """Open an image, and reserve the memory for decoding it within the block.

    Args:
        data: content of the file.
        at_least: decode a JPEG at the smallest scale that keeps both sides at least this long; None: at full size.

    Raises:
        TooLargeImage: it has more pixels than may be decoded.
        BrokenImage: any other error within the block, except a lack of memory.
    """
    try:
        metadata = True
        if png.is_png(data):
            data, metadata = png.sound(data)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            each = _PER_PIXEL.get(image.format or "", 8)
            _check_size(image, each)
            picture = _opened(image, metadata)
            width, full = image.width, image.width * image.height
            if at_least and (drafted := image.draft(None, (at_least, at_least))):
                picture = picture._replace(scale=round(width / drafted[1][2]))
            with memory.reserve(each * (full if "progressive" in image.info else image.width * image.height)):
                yield picture
    except (BrokenImage, MemoryError, RealMixError):
        raise
    except UnidentifiedImageError as error:
        named = ", ".join(_FORMATS[:COMMON])
        known = f"it is none of {named} and {len(_FORMATS) - COMMON} other formats"
        raise BrokenImage(known if data else "it is empty") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeImage(f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Exception as error:  # decoders raise anything on hostile bytes
        raise BrokenImage(str(error) or type(error).__name__) from error


def _check_size(image: Image.Image, each: int) -> None:
    most = most_pixels or min(MOST_PIXELS, memory.size // each)
    if image.width * image.height > most:
        raise TooLargeImage(f"{image.width:,} × {image.height:,} are more than {most:,} pixels")


def _opened(image: Image.Image, metadata: bool) -> Opened:
    bits = depth.bits(image)  # Pillow drops it when a PNG is loaded
    width, height = image.size
    if image.format == "TIFF":  # Pillow may have swapped the sides; it turns the image itself when it loads it
        width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]  # type: ignore[attr-defined]
    turn = _turn(image) if metadata else None
    size = (width, height) if turn in SIDEWAYS else (height, width)
    return Opened(image, None if image.format == "TIFF" else turn, size, bits)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that EXIF, or else XMP, asks for."""
    if image.format == "PNG":
        image.load()  # metadata may follow the pixels
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (MemoryError, RealMixError):
        raise
    except Exception:  # noqa: BLE001 (damaged metadata raises anything; the image may still be good)
        return None
