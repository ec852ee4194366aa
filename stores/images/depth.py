"""Pictures of more than 8 bits a sample, and signed or floating-point ones: numbers to grey levels by one fixed rule.

The range of the type is black to white: 0 … 65535 of 16 bits, 0 … 4095 of a 12-bit TIFF. Where the type says nothing
about black and white (signed, 32-bit and floating-point numbers) the user must say it with a range. What the file says
about its numbers counts: TIFF's sample format, and WhiteIsZero.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, TiffTags

Range = tuple[float, float]  # the numbers that are black and white
HINT = "give the numbers that are black and white: --range LOW,HIGH"
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_TAGS = {tag.name: number for number, tag in TiffTags.TAGS_V2.items()}
_BLOCK = 1 << 20  # samples scaled at a time


def is_deep(image: Image.Image) -> bool:
    """Whether its samples are numbers that need a range."""
    return image.mode in _DEEP or (image.mode == "L" and _tag(image, "SampleFormat", 1) == 2)


def bits(image: Image.Image) -> int:
    """Bits a sample in the file of a picture that is not yet loaded, as far as PNG and TIFF say; 8 otherwise."""
    if image.format == "PNG":
        return 16 if any("16" in str(tile[3]) for tile in image.tile) else 8  # type: ignore[attr-defined]
    return int(_tag(image, "BitsPerSample", 8))


def numbers(image: Image.Image) -> tuple[np.ndarray, Range | None]:
    """The samples of a deep picture, [height, width] of any type, and the range of their type if it has one.

    Raises:
        ValueError: they are not finite.
    """
    array = np.asarray(image)
    if image.mode == "L":
        return array.view(np.int8), None
    if image.mode == "F":
        if not np.isfinite(array).all():
            raise ValueError("some of its pixels are not finite numbers")
        return array, None
    kind, depth = _tag(image, "SampleFormat", 1), _tag(image, "BitsPerSample", 16)
    if depth == 32:
        return (array.view(np.uint32) if kind == 1 else array), None
    return array, (0, 2**depth - 1) if kind == 1 else None


def to_grey(image: Image.Image, given: Range | None) -> Image.Image:
    """A deep picture with 8 bits, mode "L": black to white is `given`, or the range of its type.

    Raises:
        ValueError: neither is there.
    """
    array, own = numbers(image)
    if given is None and own is None:
        raise ValueError(f"{_name(image)} pixels have no known range; {HINT}, or save it with 8 or 16 bits")
    low, high = given or own or (0, 0)
    grey = np.empty(array.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, array.shape[1]))
    for top in range(0, len(array), rows):
        block = array[top : top + rows].astype(np.float64)
        grey[top : top + rows] = np.rint(np.clip((block - low) * (255 / (high - low)), 0, 255))
    if _tag(image, "PhotometricInterpretation", 1) == 0:
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)


def _name(image: Image.Image) -> str:
    if image.mode == "F":
        return "floating-point"
    sign = "signed " if _tag(image, "SampleFormat", 1) == 2 else ""
    return f"{sign}{_tag(image, 'BitsPerSample', 16)}-bit"


def _tag(image: Image.Image, name: str, default: int) -> int:
    """A number of a TIFF's directory, the largest if it is one for each sample; `default` for other formats."""
    found = getattr(image, "tag_v2", {}).get(_TAGS[name], default)
    return int(max(found) if isinstance(found, tuple) else found)
