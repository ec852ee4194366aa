"""JPEGs: the size from the header, and the pixels from libjpeg-turbo, which also reports damage.

libjpeg fills in missing data and only warns; Pillow and OpenCV ignore the warning, simplejpeg raises it. The pixels are
those of Pillow, bit for bit. JPEG has no checksum: truncation is always found, a missing piece of a few hundred bytes
nearly always, a changed byte in about half of all cases.
"""

from __future__ import annotations

import struct

import numpy as np
import simplejpeg

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_USUAL = (0xE0, 0xDB, 0xC4, 0xDD, 0xFE)  # JFIF, tables, restart interval, comment
_ODD = ("Warning: unknown JFIF revision", "Unknown Adobe color transform", "tjDecompressHeader3(): Could not determine")


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes begin with the marker of a JPEG."""
    return data[:2] == b"\xff\xd8"


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG with only the usual segments before its scan; otherwise None.

    Usual are JFIF (APP0), tables, comments, and a frame of one or three 8-bit components (ITU-T T.81 B.1.1.3). JFIF
    means YCbCr or grey; an EXIF orientation and Adobe's other colours are in other segments.
    """
    if data[:4] != b"\xff\xd8\xff\xe0":
        return None
    at, size = 2, None
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return size
        if marker in _FRAMES and size is None:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if bits != 8 or not height or not width or components not in (1, 3):
                return None
            size = (height, width)
        elif marker not in _USUAL:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def decode(data: bytes, at_least: tuple[int, int] = (0, 0), colours: str = "RGB") -> np.ndarray | None:
    """Decode a JPEG, without turning it upright.

    Args:
        data: content of the file.
        at_least: decode at the smallest scale with at least this (height, width); (0, 0): at full size.
        colours: "RGB" or "CMYK".

    Returns:
        uint8 [height, width, 3 (RGB) or 4 (CMYK)]; None for a kind of JPEG that only Pillow reads.

    Raises:
        ValueError: the JPEG is incomplete; with libjpeg's message.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, min_height=at_least[0], min_width=at_least[1]))
    except ValueError as error:
        if str(error).startswith(_ODD):
            return None
        raise
