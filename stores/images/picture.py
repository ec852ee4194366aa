"""Decoding an image file of any common format to upright RGB pixels of one size.

Both stages use it, so that a network predicts on images decoded as in training. JPEGs are decoded by libjpeg-turbo
(`jpeg.py`), all other formats by Pillow (`decoders.py`).
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from stores.errors import IntegrityError
from stores.images import depth, jpeg
from stores.images.decoders import SIDEWAYS, BrokenImage, Opened, TooLargeImage, allow, opened
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
REDUCED = 1.5  # times the result's longer side: what a JPEG has at least after it was decoded at a smaller scale
BACKGROUND = 127  # behind transparent pixels: the mid-grey of CutOut
_BAND = 1 << 20  # pixels composited at a time


def load(file: str, shape: tuple[int, int], range_: Range | None = None) -> np.ndarray:
    """`pixels` of a file: uint8 [height, width, 3].

    Raises:
        IntegrityError: it cannot be read or is broken.
    """
    try:
        return pixels(contents(file), shape, range_)
    except BrokenImage as error:
        raise broken(file, error) from error


def contents(file: str) -> bytes:
    """The content of a file.

    Raises:
        IntegrityError: it cannot be read.
    """
    try:
        with io.FileIO(file) as opened:
            return opened.readall()
    except OSError as error:
        raise IntegrityError(f"cannot read '{file}'", error.strerror or "", "fix or remove it") from error


def broken(file: str, error: BrokenImage) -> IntegrityError:
    """The error for a user, which names the file."""
    if isinstance(error, TooLargeImage):
        return IntegrityError(f"too large a picture: '{file}'", str(error), "shrink it, or allow it with --max-pixels")
    return IntegrityError(f"broken image '{file}'", str(error), "fix or remove it")


def size(data: bytes) -> tuple[int, int]:
    """(height, width) of the upright image, from its header; a PNG with metadata is decoded.

    Raises:
        BrokenImage: it is not an image, or a PNG with wrong checksums.
        TooLargeImage: it has more pixels than may be decoded.
    """
    plain = jpeg.plain_size(data)
    if plain:
        return plain
    with opened(data) as picture:
        return picture.size


def pixels(data: bytes, shape: tuple[int, int], range_: Range | None = None) -> np.ndarray:
    """Decode an image and fit it into (height, width).

    An image of another size is centre-cropped to the target's aspect ratio and resized with Lanczos antialiasing. A
    large JPEG is decoded at 1/2, 1/4 or 1/8 of its size first, which changes the result by a PSNR of 41 dB or more.
    Transparent images are composited over mid-grey, the EXIF or XMP orientation is applied, and only the first frame of
    an animation is used.

    Args:
        data: content of the file.
        shape: (height, width) of the result.
        range_: the values that are black and white in images of more than 8 bits; None: the range of their type.

    Returns:
        uint8 [height, width, 3].

    Raises:
        BrokenImage: it does not decode to a complete image, or its samples have no known range.
        TooLargeImage: it has more pixels than may be decoded.
    """
    height, width = shape
    try:
        if jpeg.plain_size(data) == shape:
            decoded = jpeg.decode(data)
            if decoded is not None:
                return decoded
    except ValueError as error:
        raise BrokenImage(str(error)) from error
    with opened(data, at_least=int(REDUCED * max(shape))) as picture:
        image = _in_rgb(picture, data, range_)
        if picture.scale > 1:
            image = _fit_reduced(image, picture, (width, height))
        if picture.turn is not None:
            image = image.transpose(picture.turn)
        if picture.scale == 1 and image.size != picture.size[::-1]:
            raise BrokenImage(f"its header says {picture.size[::-1]} pixels, it has {image.size}")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        return np.asarray(image)


def is_reduced(size: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether `pixels` decodes a JPEG of size (height, width) at a smaller scale."""
    return min(size) >= 2 * int(REDUCED * max(shape))


def _fit_reduced(image: PillowImage, picture: Opened, size: tuple[int, int]) -> PillowImage:
    """`ImageOps.fit` of an image that was decoded at a smaller scale, before it is turned upright.

    Its last column and row are there only in part where the scale does not divide the sides; a picture stretched over
    the rest of them would be off by up to a pixel, a PSNR of 28 dB.

    Args:
        size: (width, height) of the upright result.
    """
    sideways = picture.turn in SIDEWAYS
    height, width = (side / picture.scale for side in (picture.size[::-1] if sideways else picture.size))
    target = size[::-1] if sideways else size
    shrink = min(width / target[0], height / target[1])
    wide, high = min(shrink * target[0], width), min(shrink * target[1], height)  # rounding must not leave the image
    left, top = (width - wide) / 2, (height - high) / 2
    box = (left, top, min(left + wide, width), min(top + high, height))
    return image.resize(target, Image.Resampling.LANCZOS, box)


def fitted(image: PillowImage | np.ndarray, shape: tuple[int, int], range_: Range | None = None) -> np.ndarray:
    """`pixels` of an image in memory, a Pillow image or an array uint8 [H, W, 3]; the same as those of its file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer, known_to_png = io.BytesIO(), image.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
    ImageOps.exif_transpose(image).save(buffer, "PNG" if known_to_png else "TIFF")
    return pixels(buffer.getvalue(), shape, range_)


class Reach(NamedTuple):
    """The values in an image of more than 8 bits.

    Attributes:
        largest: the largest value.
        possible: the largest value of its type.
        grey: whether a range applies to it; not to colour images.
    """

    largest: float
    possible: float
    grey: bool


def reach(data: bytes) -> Reach | None:
    """The `Reach` of an image of more than 8 bits; None for other images, and if its type has no range.

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


def _in_rgb(picture: Opened, data: bytes, range_: Range | None) -> PillowImage:
    """Decode an image, without turning it upright."""
    image = picture.image
    found = _jpeg(data, image, picture.scale == 1) if image.format in ("JPEG", "MPO") else None
    return _in_colour(image, picture.bits, range_) if found is None else found


def _jpeg(data: bytes, image: Image.Image, full: bool) -> Image.Image | None:
    """None for colours that Pillow must convert; then libjpeg has only checked that the file is complete."""
    at_least = (0, 0) if full else (image.height, image.width)
    if image.mode not in ("L", "RGB"):
        jpeg.decode(data, at_least, "CMYK")
        return None
    decoded = jpeg.decode(data, at_least)
    return None if decoded is None else Image.fromarray(decoded)


def _in_colour(image: Image.Image, bits: int, range_: Range | None) -> Image.Image:
    image.load()  # this turns a TIFF upright, so its size is known only now
    if depth.is_deep(image):
        clear = image.info.get("transparency")  # of a PNG: the value that is transparent
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
    """Composite over the background in bands, because the whole image would be in memory three times as RGBA."""
    out, rows = Image.new("RGB", image.size), max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        clear = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        flat = Image.new("RGBA", clear.size, (BACKGROUND,) * 3 + (255,))
        out.paste(Image.alpha_composite(flat, clear).convert("RGB"), (0, top))
    return out
