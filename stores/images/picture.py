"""One image file to pixels: any common format and mode, upright, three channels of 8 bits, one size.

Both stages read pictures with it, so that a network is asked about pictures just as it learnt from them. JPEGs are
decoded by libjpeg-turbo (`jpeg.py`), everything else by Pillow (`decoders.py`).
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from stores.errors import IntegrityError
from stores.images import depth, jpeg
from stores.images.decoders import BrokenImage, Opened, TooLargeImage, allow, opened
from stores.images.depth import Range

__all__ = [
    "BrokenImage",
    "Range",
    "TooLargeImage",
    "allow",
    "broken",
    "contents",
    "fitted",
    "load",
    "pixels",
    "reach",
    "size",
]

PillowImage = Image.Image
BACKGROUND = 127  # where an image is transparent: the mid-grey that CutOut also uses
_BAND = 1 << 20  # pixels laid over the background at a time


def load(file: str, shape: tuple[int, int], range_: Range | None = None) -> np.ndarray:
    """`pixels` of a file: uint8 [height, width, 3].

    Raises:
        IntegrityError: it cannot be read or is broken; names it.
    """
    try:
        return pixels(contents(file), shape, range_)
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
    if isinstance(error, TooLargeImage):
        return IntegrityError(f"too large a picture: '{file}'", str(error), "shrink it, or allow it with --max-pixels")
    return IntegrityError(f"broken image '{file}'", str(error), "mend or remove it")


def size(data: bytes) -> tuple[int, int]:
    """(height, width) of the upright image, from its header alone (a PNG with metadata is decoded for them).

    Raises:
        BrokenImage: not an image, or a PNG whose checksums are wrong.
        TooLargeImage: more pixels than may be decoded.
    """
    plain = jpeg.plain_size(data)
    if plain:
        return plain
    with opened(data) as picture:
        return picture.size


def pixels(data: bytes, shape: tuple[int, int], range_: Range | None = None) -> np.ndarray:
    """Decode and fit into (height, width).

    An image of another size is cropped in the middle to the target's aspect and resized with antialiasing (Lanczos).
    Transparency is laid over mid-grey; the EXIF or XMP orientation is applied; of an animation the first frame counts.

    Args:
        range_: the numbers that are black and white in pictures of more than 8 bits; None: the range of their type.

    Returns:
        uint8 [height, width, 3].

    Raises:
        BrokenImage: the bytes do not decode to a whole image, or its numbers have no known range.
        TooLargeImage: more pixels than may be decoded.
    """
    height, width = shape
    try:
        if jpeg.plain_size(data) == shape:
            decoded = jpeg.decode(data)
            if decoded is not None:
                return decoded
    except ValueError as error:
        raise BrokenImage(str(error)) from error
    with opened(data, at_least=2 * max(shape)) as picture:
        upright = _upright(picture, data, range_)
        if upright.size != (width, height):
            upright = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
        return np.asarray(upright)


def fitted(image: PillowImage | np.ndarray, shape: tuple[int, int], range_: Range | None = None) -> np.ndarray:
    """`pixels` of an image in memory, as those of its file: of a Pillow image, or of an array uint8 [H, W, 3]."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer, known_to_png = io.BytesIO(), image.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
    ImageOps.exif_transpose(image).save(buffer, "PNG" if known_to_png else "TIFF")
    return pixels(buffer.getvalue(), shape, range_)


class Reach(NamedTuple):
    """The largest number in a picture of more than 8 bits, what its type could hold, and whether it takes a range."""

    largest: float
    possible: float
    grey: bool


def reach(data: bytes) -> Reach | None:
    """How far a picture of more than 8 bits uses its numbers; None for all others, and where no range is known.

    Raises:
        BrokenImage: as `pixels`.
    """
    with opened(data) as picture:
        image = picture.image
        if depth.is_deep(image):
            numbers, range_ = depth.numbers(image)
            return None if range_ is None else Reach(float(numbers.max()), range_[1], True)
        if picture.bits > 8:
            return Reach(257.0 * np.asarray(image.convert("RGB")).max(), 65535, False)
    return None


def _upright(picture: Opened, data: bytes, range_: Range | None) -> Image.Image:
    """Mode RGB."""
    image = picture.image
    full = sorted(image.size) == sorted(picture.size)
    colour = _jpeg(data, image, full) if image.format in ("JPEG", "MPO") else None
    if colour is None:
        colour = _in_colour(image, picture.bits, range_)
    if picture.turn is not None:
        colour = colour.transpose(picture.turn)
    if full and colour.size != picture.size[::-1]:
        raise BrokenImage(f"its header says {picture.size[::-1]} pixels, it has {colour.size}")
    return colour


def _jpeg(data: bytes, image: Image.Image, full: bool) -> Image.Image | None:
    """None for colours that Pillow must mix; then libjpeg has only looked whether it is whole."""
    at_least = (0, 0) if full else (image.height, image.width)
    if image.mode not in ("L", "RGB"):
        jpeg.decode(data, at_least, "CMYK")
        return None
    decoded = jpeg.decode(data, at_least)
    return None if decoded is None else Image.fromarray(decoded)


def _in_colour(image: Image.Image, bits: int, range_: Range | None) -> Image.Image:
    image.load()  # which turns a TIFF, so that its size is known only now
    if depth.is_deep(image):
        clear = image.info.get("transparency")  # of a PNG: the number that is transparent
        grey = depth.to_grey(image, range_)
        if isinstance(clear, int):
            grey.paste(BACKGROUND, mask=Image.fromarray(np.asarray(image) == clear))
        return grey.convert("RGB")
    if range_ is not None and bits > 8:
        raise BrokenImage(
            f"a range is for grey pictures, this one is {depth.bits(image)}-bit colour: save it with 8 bits"
        )
    if image.has_transparency_data:
        return _over_background(image)
    return image.convert("RGB")


def _over_background(image: Image.Image) -> Image.Image:
    """Band by band: RGBA of the whole would be there three times."""
    out, rows = Image.new("RGB", image.size), max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        clear = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        flat = Image.new("RGBA", clear.size, (BACKGROUND,) * 3 + (255,))
        out.paste(Image.alpha_composite(flat, clear).convert("RGB"), (0, top))
    return out
