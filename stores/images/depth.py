"""Images of more than 8 bits per sample, and of signed or floating-point samples: converted to 8-bit grey.

Black to white is the range of the type: 0 … 65535 for 16 bits, 0 … 4095 for a 12-bit TIFF. Signed, 32-bit and
floating-point samples have no such range; the user must give one. TIFF's SampleFormat and WhiteIsZero are respected.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, TiffTags

Range = tuple[float, float]  # the values that are black and white
HINT = "give the numbers that are black and white: --range LOW,HIGH"
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_TAGS = {tag.name: number for number, tag in TiffTags.TAGS_V2.items()}
_BLOCK = 1 << 20  # samples scaled at a time


def is_deep(image: Image.Image) -> bool:
    """Whether the samples need a range."""
    return image.mode in _DEEP or (image.mode == "L" and _tag(image, "SampleFormat", 1) == 2)


def bits(image: Image.Image) -> int:
    """Bits per sample of a PNG or TIFF that is not yet loaded; 8 for other formats."""
    if image.format == "PNG":
        return 16 if any("16" in str(tile[3]) for tile in image.tile) else 8  # type: ignore[attr-defined]
    return int(_tag(image, "BitsPerSample", 8))


def numbers(image: Image.Image) -> tuple[np.ndarray, Range | None]:
    """The samples of a deep image, [height, width] of any dtype, and the range of their type if it has one.

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
    """Convert a deep image to 8 bits, mode "L".

    Args:
        image: the image.
        given: the values that are black and white; None: the range of its type.

    Raises:
        ValueError: no range is given, and the type has none.
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
    """A tag of a TIFF, the largest value if there is one per channel; `default` for other formats."""
    found = getattr(image, "tag_v2", {}).get(_TAGS[name], default)
    return int(max(found) if isinstance(found, tuple) else found)
