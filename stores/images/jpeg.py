"""JPEGs: their header read without a decoder, their pixels by libjpeg-turbo, which also tells when they are damaged.

libjpeg fills in what is missing and only warns; Pillow and OpenCV keep that to themselves, simplejpeg raises it. The
pixels are Pillow's, bit for bit. JPEG has no checksum: a file cut short is always found, one that lost a piece of a few
hundred bytes nearly always, a wrong byte in about half of all cases.
"""

from __future__ import annotations

import struct

import numpy as np
import simplejpeg

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_USUAL = (0xE0, 0xDB, 0xC4, 0xDD, 0xFE)  # JFIF, tables, restart interval, comment
_ODD = ("Warning: unknown JFIF revision", "Unknown Adobe color transform", "tjDecompressHeader3(): Could not determine")


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG whose segments up to its scan are the usual ones; otherwise None.

    The usual ones: JFIF (APP0), tables, comment, and a frame of one or three 8-bit components (ITU-T T.81 B.1.1.3).
    JFIF fixes the colours (YCbCr or grey); EXIF (an orientation) and Adobe (other colours) come in other segments.
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
    """Pixels uint8 [height, width, 3 (or 4: "CMYK")], not turned; None for a JPEG of a kind that only Pillow reads.

    Args:
        at_least: decode at the smallest scale that gives this (height, width); (0, 0): at full size.

    Raises:
        ValueError: not a whole JPEG; says what libjpeg said.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, min_height=at_least[0], min_width=at_least[1]))
    except ValueError as error:
        if str(error).startswith(_ODD):
            return None
        raise
