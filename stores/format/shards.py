"""Encoding and decoding the files of an array.

A file is a shard of zarr v3's `sharding_indexed` codec: chunks (each a zstd frame and its CRC32C), then an index of
(offset, length) pairs, little-endian uint64, then the CRC32C of the index. The file of a small array is a single chunk.
zstd releases the GIL, so threads encode and decode in parallel.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np
from numcodecs import zstd

from stores.errors import IntegrityError, out_of_memory
from stores.format.compression import compress, frame_size
from stores.format.layout import ArrayLayout
from stores.storage.location import Location

EXPANSION = 1 << 15  # of zstd at most: a block has up to 128 KiB and takes at least 4 bytes (RFC 8878 §3.1.1.2)
CRC = 4  # bytes
WITH_ITS_CRC = google_crc32c.value(bytes(CRC))  # CRC of any bytes followed by their own CRC
MISSING = 0xFFFFFFFFFFFFFFFF  # index entry of a chunk that lies wholly outside the array


class Encoder:
    """Encodes a file chunk by chunk in row order, so that only one raw chunk is in memory at a time.

    Args:
        layout: of the array.
        index: number of the file.
    """

    def __init__(self, layout: ArrayLayout, index: int) -> None:
        self._layout = layout
        self._start, self._stop = layout.rows(index)
        self._frames: list[bytes] = []
        self._entries: list[tuple[int, int]] = []
        self._offset = 0

    def row_blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges (start, stop) of the rows to be given to `add`, in order."""
        for start in range(self._start, self._stop, self._layout.chunk[0]):
            yield start, min(start + self._layout.chunk[0], self._stop)

    def add(self, rows: np.ndarray) -> None:
        """Encode the next block of `row_blocks`.

        Args:
            rows: [n, *shape[1:]] of the array's dtype.
        """
        layout = self._layout
        assert rows.shape[1:] == layout.shape[1:] and rows.dtype == layout.dtype, (rows.shape, rows.dtype, layout)
        for inner in itertools.product(*(range(n) for n in layout.chunk_grid[1:])):
            at = (slice(None), *(slice(i * c, (i + 1) * c) for i, c in zip(inner, layout.chunk[1:], strict=True)))
            chunk = rows[at]
            if chunk.shape != layout.chunk:  # zarr stores edge chunks at full size
                padded = np.zeros(layout.chunk, layout.dtype)
                padded[tuple(slice(n) for n in chunk.shape)] = chunk
                chunk = padded
            frame = compress(np.ascontiguousarray(chunk))
            frame += struct.pack("<I", google_crc32c.value(frame))
            self._frames.append(frame)
            self._entries.append((self._offset, len(frame)))
            self._offset += len(frame)

    def finish(self) -> bytes:
        """The bytes of the whole file."""
        if not self._layout.sharded:
            assert len(self._frames) == 1
            return self._frames[0]
        entries = np.full((math.prod(self._layout.chunk_grid), 2), MISSING, "<u8")
        entries[: len(self._entries)] = self._entries
        table = entries.tobytes()
        return b"".join([*self._frames, table, struct.pack("<I", google_crc32c.value(table))])


def encode(layout: ArrayLayout, index: int, rows: np.ndarray) -> bytes:
    """Encode the `index`-th file.

    Args:
        layout: of the array.
        index: number of the file.
        rows: all its rows, [stop − start, *shape[1:]].
    """
    encoder = Encoder(layout, index)
    for start, stop in encoder.row_blocks():
        encoder.add(rows[start - layout.rows(index)[0] : stop - layout.rows(index)[0]])
    return encoder.finish()


def read_index(layout: ArrayLayout, size: int, tail: Callable[[int], bytes], path: Location) -> np.ndarray:
    """Offsets and lengths of the chunks of a file, uint64 [blocks of rows, chunks of a block, 2].

    Args:
        layout: of the array.
        size: of the file in bytes.
        tail: returns the last n bytes of the file.
        path: of the file, for errors.

    Raises:
        IntegrityError: the index is truncated, altered, or points outside the file.
    """
    count, per_row = math.prod(layout.chunk_grid), math.prod(layout.chunk_grid[1:])
    if not layout.sharded:
        return np.array([[[0, size]]], np.uint64)
    index_bytes = count * 16 + 4
    if size < index_bytes:
        raise damaged(path, f"it has {size} bytes, its index alone needs {index_bytes}")
    table = tail(index_bytes)
    if len(table) != index_bytes:
        raise damaged(path, "its chunk index could not be read whole")
    if struct.unpack("<I", table[-4:])[0] != google_crc32c.value(table[:-4]):
        raise damaged(path, "the checksum of its chunk index does not match")
    entries = np.frombuffer(table[:-4], "<u8").reshape(-1, per_row, 2)
    stored = entries[entries[..., 0] != MISSING].astype(object)  # Python integers: a hostile sum must not wrap around
    if any(offset + length > size - index_bytes for offset, length in stored):
        raise damaged(path, "its chunk index points outside the file")
    return entries


def decode_chunk(layout: ArrayLayout, frame: bytes, path: Location, place: Callable[[], np.ndarray]) -> np.ndarray:
    """Decode a chunk.

    Args:
        layout: of the array.
        frame: the zstd frame and its CRC32C.
        path: of the file, for errors.
        place: returns the array to decode into, C-contiguous; called once the frame is known to hold a chunk.

    Returns:
        The array of `place`, with shape `layout.chunk`.

    Raises:
        IntegrityError: the frame is altered or has another size.
    """
    check_frame(layout, frame, path)
    chunk = place()
    assert chunk.flags.c_contiguous and chunk.nbytes == layout.chunk_bytes
    try:
        zstd.decompress(memoryview(frame)[:-CRC], chunk)
    except (RuntimeError, ValueError) as error:
        if out_of_memory(error):
            raise
        raise damaged(path, str(error)) from None
    return chunk


def check_frame(layout: ArrayLayout, frame: bytes, path: Location) -> None:
    """Check that a frame holds a chunk, before memory is allocated for it.

    Raises:
        IntegrityError: its checksum is wrong, it states another size, or it is too short for the size it states.
    """
    if google_crc32c.value(frame) != WITH_ITS_CRC:
        raise damaged(path, "the checksum of a chunk does not match")
    # a frame that decodes to fewer bytes would leave the rest of the buffer unchanged
    if frame_size(frame) != layout.chunk_bytes:
        raise damaged(path, f"a chunk does not hold the {layout.chunk_bytes} bytes it should")
    if layout.chunk_bytes > len(frame) * EXPANSION:
        raise damaged(path, f"a chunk of {len(frame)} bytes cannot hold {layout.chunk_bytes}")


def damaged(path: Location, why: str) -> IntegrityError:
    """The error for a file whose bytes are not what was written."""
    return IntegrityError(
        f"'{path}' is damaged",
        why,
        "`realmix-data verify` lists all damage, `realmix-data repair` restores what follows from the rest",
    )
