"""Compressing a chunk to a zstd frame, with parameters measured for stacks of nearly identical images.

The array's metadata names level 1, which other writers may use; any zstd decoder reads the frames, which state their
content size. Copies of an image repeat each other at a distance of one image, so what finds those repeats follows from
the image's size (benchmarks/RESULTS.md, "Which chunks, which codec"):

* As long as 50 copies fit into a window of 512 kB (up to 59×59), a hash table of 16 kB, which stays in the L1 cache,
  finds them. Literals are stored as they are: a fifth faster than level 1 with 3 % more bytes. Labels and base images,
  which repeat nothing, are also written like this.
* Above, the window holds 50 copies (8 MB at 224×224), and a hash table of 512 kB still knows the image when its first
  copy comes. Literals are coded. Long-distance matching would take four times as long for more bytes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import zstandard

MAGIC = b"\x28\xb5\x2f\xfd"
SIBLINGS = 50  # copies that the window holds
SMALL_WINDOW = 19  # log2 of bytes
LARGEST_WINDOW = 26  # decoders refuse more than 27 unless told otherwise (RFC 8878 asks for 23 at least)
_THREAD = threading.local()


def compress(chunk: np.ndarray) -> bytes:
    """One frame from a C-contiguous array's bytes; the same version of zstd gives the same frame.

    Args:
        chunk: copies, uint8 [images, copies, H, W, 3], or any other array.
    """
    window = window_of(int(np.prod(chunk.shape[2:]))) if chunk.ndim == 5 else SMALL_WINDOW
    compressors: dict[int, zstandard.ZstdCompressor] | None = getattr(_THREAD, "compressors", None)
    if compressors is None:  # threads must not share a compressor
        compressors = _THREAD.compressors = {}
    if window not in compressors:
        compressors[window] = compressor(window)
    return compressors[window].compress(chunk.data)


def window_of(image_bytes: int) -> int:
    """log2 of the bytes that the window has for copies of an image of this many bytes."""
    return max(SMALL_WINDOW, min((SIBLINGS * image_bytes - 1).bit_length(), LARGEST_WINDOW))


def compressor(window: int) -> zstandard.ZstdCompressor:
    """A compressor with the parameters for a window of 2^`window` bytes."""
    import zstandard

    small = window == SMALL_WINDOW
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST,
        window_log=window,
        hash_log=12 if small else 17,
        chain_log=10,
        search_log=1,
        min_match=6 if small else 5,
        target_length=int(small),  # of this strategy: 0 codes literals
        write_content_size=True,
        write_checksum=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def frame_size(frame: bytes) -> int:
    """Content size in the header of a zstd frame (RFC 8878 §3.1.1.1); −1 if there is none."""
    if len(frame) < 6 or frame[:4] != MAGIC:
        return -1
    descriptor = frame[4]
    flag, single, dictionary = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    width = (1 if single else 0, 2, 4, 8)[flag]
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[dictionary]
    if width == 0 or len(frame) < at + width:
        return -1
    return int.from_bytes(frame[at : at + width], "little") + (256 if width == 2 else 0)
