"""The checksums of a PNG's chunks; Pillow does not check those of the pixels."""

from __future__ import annotations

import zlib

_START = 8  # of the first chunk, after the signature
_METADATA = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")  # may hold an orientation; pixels do not depend on them


def is_png(data: bytes) -> bool:
    """Whether the bytes begin with the signature of a PNG."""
    return data[:_START] == b"\x89PNG\r\n\x1a\n"


def sound(data: bytes) -> tuple[bytes, bool]:
    """Check the chunks of a PNG and drop damaged metadata, without which the image is still good.

    Returns:
        The PNG without damaged metadata chunks (PNG specification, 5.3), and whether it has intact ones.

    Raises:
        ValueError: the checksum of another chunk is wrong, or the file is truncated.
    """
    view, damaged, metadata, at = memoryview(data), [], False, _START
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            if kind not in _METADATA:
                raise ValueError(f"the checksum of its {kind.decode('ascii', 'replace')} chunk is wrong")
            damaged.append((at, end))
        elif kind in _METADATA:
            metadata = True
        if kind == b"IEND":
            for start, stop in reversed(damaged):
                data = data[:start] + data[stop:]
            return data, metadata
        at = end
    raise ValueError("it ends before its last chunk")
