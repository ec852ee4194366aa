"""How one array of a store is cut into files and chunks, and its zarr v3 metadata.

    file  (shard)   consecutive rows of the first axis, all of the other axes: written whole, by one writer, checksummed
    chunk           what zstd compresses together; a file of images holds many, found through the index at its end

A chunk is followed by the CRC32C of its compressed bytes. Older stores have zstd's own checksum instead, of the decoded
bytes, which costs a reader of copies a quarter of its time; they are read, verified, repaired and continued as well.

Image arrays use zarr's sharding codec; small arrays (labels, params, indices) have one chunk a file and no index.
Nothing here reads or writes pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from stores.errors import IntegrityError, StoreError
from stores.format import manifest
from stores.format.compression import has_checksum
from stores.format.fields import MOST
from stores.storage.confine import read_inside, require_inside
from stores.storage.location import Location

ZSTD_LEVEL = 1
CHUNK_BYTES = 10 << 20  # raw bytes of a chunk of copies: 64 images × 50 copies at 32×32
BASE_CHUNK_BYTES = 1 << 20
LARGEST_CHUNK = 64 << 20  # more is nothing that this module lays out: an image of 64 MiB
CHUNKS_PER_FILE = 16
COPIES_PER_CHUNK = 50
CHECKSUM: Literal["crc32c", "zstd"] = "crc32c"  # of what is laid out anew


@dataclass(frozen=True)
class ArrayLayout:
    """Layout of one array.

    Attributes:
        name: path inside the store, "copies/images".
        shape: full shape; the first axis counts images (or labels).
        dtype: NumPy name, little endian where it matters.
        chunk: shape that is compressed together; splits the first axis, for copies also the second, no other.
        file: shape that one file holds: a multiple of `chunk`; splits the first axis only.
        sharded: whether a file has an index of its chunks; if not, `file == chunk`.
        checksum: of a chunk: "crc32c" after its zstd frame, or "zstd", its own in the frame.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    file: tuple[int, ...]
    sharded: bool
    checksum: str = field(default_factory=lambda: CHECKSUM)

    @property
    def num_files(self) -> int:
        return math.ceil(self.shape[0] / self.file[0])

    @property
    def row_bytes(self) -> int:
        """Raw bytes of one row (one image, or one image's copies)."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @cached_property
    def chunk_bytes(self) -> int:
        """Raw bytes of one chunk, as a Python integer: a hostile product must not wrap around."""
        return math.prod(self.chunk) * np.dtype(self.dtype).itemsize

    @cached_property
    def chunk_grid(self) -> tuple[int, ...]:
        """Chunks per axis of a file."""
        return tuple(f // c for f, c in zip(self.file, self.chunk, strict=True))

    def key(self, index: int) -> str:
        """Path of the `index`-th file inside the store (zarr's default chunk key)."""
        return f"{self.name}/c/{index}" + "/0" * (len(self.shape) - 1)

    def keys(self) -> Iterator[str]:
        return (self.key(index) for index in range(self.num_files))

    def rows(self, index: int) -> tuple[int, int]:
        """First and past-the-last row of the `index`-th file."""
        return index * self.file[0], min((index + 1) * self.file[0], self.shape[0])

    def create(self, store: Location) -> ArrayLayout:
        """Write the zarr.json of the array and of the groups above it, where it is not there; no data.

        Returns:
            the layout that is there: an array that was begun with the other checksum keeps it.
        """
        begun = self._begun(store)
        begun._create(store)
        return begun

    def _begun(self, store: Location) -> ArrayLayout:
        """With the kind of checksum of what is there."""
        if (store / self.name / "zarr.json").is_file():
            with contextlib.suppress(StoreError, IntegrityError):  # what is damaged is written anew
                there = load(store, self.name)
                return there if replace(there, checksum=self.checksum) == self else self
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IntegrityError):
            if has_checksum(read_inside(store, store / self.key(0))):
                return replace(self, checksum="zstd")
        return self

    def metadata(self) -> dict[str, bytes]:
        """The zarr.json of the groups above the array and of itself, by their keys, in the order of writing."""
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        made: dict[str, Any] = {}
        groups = [str(group) for group in reversed(PurePosixPath(self.name).parents[:-1])]
        for group in groups:
            zarr.create_group(store=zarr.storage.MemoryStore(made), path=group, zarr_format=3)
        names = {4: ("image", "y", "x", "channel"), 5: ("image", "copy", "y", "x", "channel")}
        zarr.create_array(
            store=zarr.storage.MemoryStore(made),
            name=self.name,
            shape=self.shape,
            chunks=self.chunk,
            shards=self.file if self.sharded else None,
            dtype=self.dtype,
            compressors=[ZstdCodec(level=ZSTD_LEVEL, checksum=self.checksum == "zstd")]
            + ([Crc32cCodec()] if self.checksum == "crc32c" else []),
            fill_value=0,
            dimension_names=names.get(len(self.shape)),
        )
        return {key: made[key].to_bytes() for key in (f"{name}/zarr.json" for name in (*groups, self.name))}

    def _create(self, store: Location) -> None:
        for key, data in self.metadata().items():
            path = store / key
            require_inside(store, path)
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                manifest.write_atomically(path, data)


def images(name: str, count: int, height: int, width: int) -> ArrayLayout:
    """Layout of base images, uint8 [N, H, W, 3]."""
    rows = _power_of_two(BASE_CHUNK_BYTES // (height * width * 3), 256)
    return _sharded(name, (count, height, width, 3), rows)


def copies(name: str, count: int, num_copies: int, height: int, width: int) -> ArrayLayout:
    """Layout of stored copies, uint8 [N, A, H, W, 3], image-major: siblings compress against each other."""
    per_chunk = max(1, min(num_copies, COPIES_PER_CHUNK, CHUNK_BYTES // (height * width * 3)))
    rows = _power_of_two(CHUNK_BYTES // (per_chunk * height * width * 3), 64)
    return _sharded(name, (count, num_copies, height, width, 3), rows, per_chunk)


def params(name: str, of: ArrayLayout, num_params: int) -> ArrayLayout:
    """Layout of the copies' parameters, int32 [N, A, P]: one file for each file of copies."""
    shape = (of.shape[0], of.shape[1], num_params)
    file = (of.file[0], *shape[1:])
    return ArrayLayout(name, shape, "int32", file, file, sharded=False)


def table(name: str, array: np.ndarray) -> ArrayLayout:
    """Layout of a small array: one file, one chunk."""
    shape = tuple(max(1, n) for n in array.shape)
    return ArrayLayout(name, array.shape, str(array.dtype), shape, shape, sharded=False)


def load(store: Location, name: str, sha256: str | None = None) -> ArrayLayout:
    """Read the layout of an array from its zarr.json.

    Args:
        sha256: what the manifest says of that file, if it does.

    Raises:
        StoreError: it is missing, or not an array as this module lays them out.
        IntegrityError: it is not what was written.
    """
    path = store / name / "zarr.json"
    try:
        data = read_inside(store, path)
        if sha256 not in (None, hashlib.sha256(data).hexdigest()):
            why = "its SHA-256 is not the manifest's"
            raise IntegrityError(f"'{path}' is damaged", why, "`realmix-data repair` mends it")
        meta = json.loads(data)
        outer = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        codecs, sharded = meta["codecs"], meta["codecs"][0]["name"] == "sharding_indexed"
        inner = outer
        if sharded:
            config = codecs[0]["configuration"]
            inner, codecs = tuple(config["chunk_shape"]), config["codecs"]
            plain_index = [c["name"] for c in config["index_codecs"]] == ["bytes", "crc32c"]
            sharded_as_ours = plain_index and config.get("index_location", "end") == "end"
        names = [c["name"] for c in codecs]
        checksum = "zstd" if names == ["bytes", "zstd"] else "crc32c"
        layout = ArrayLayout(name, tuple(meta["shape"]), str(meta["data_type"]), inner, outer, sharded, checksum)
        ours = names in (["bytes", "zstd"], ["bytes", "zstd", "crc32c"]) and (not sharded or sharded_as_ours)
        ours &= meta["node_type"] == "array" and layout.dtype in ("uint8", "int32", "int64")
        ours &= all(c.get("configuration", {}).get("endian", "little") == "little" for c in codecs)
        ours &= all(type(n) is int and 0 <= n <= MOST for n in (*layout.shape, *inner, *outer))
        ours &= len(layout.shape) == len(inner) == len(outer) > 0
        ours &= all(0 < c <= f and f % c == 0 for c, f in zip(inner, outer, strict=True))
        ours &= all(c >= n for c, n in zip(outer[1:], layout.shape[1:], strict=True))
        ours &= inner[2:] == outer[2:] == tuple(max(1, n) for n in layout.shape[2:])
        ours &= not sharded or math.prod(inner) <= LARGEST_CHUNK
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"'{store}' has no array '{name}'", f"'{path}' is missing") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"'{path}' is no zarr v3 array metadata", f"{type(error).__name__}: {error}") from None
    if not ours:
        raise StoreError(
            f"array '{name}' of '{store}' is not laid out as a realmix store",
            "its codecs, data type or chunk grid were not written by realmix-data",
        )
    return layout


def _sharded(name: str, shape: tuple[int, ...], rows: int, per_chunk: int | None = None) -> ArrayLayout:
    middle = () if per_chunk is None else (per_chunk,)
    chunk = (rows, *middle, *shape[1 + len(middle) :])
    files_rows = rows * min(CHUNKS_PER_FILE, max(1, math.ceil(shape[0] / rows)))
    # zarr wants whole chunks in a shard: 120 copies in chunks of 50 make a shard 150 copies wide
    wide = () if per_chunk is None else (math.ceil(shape[1] / per_chunk) * per_chunk,)
    return ArrayLayout(name, shape, "uint8", chunk, (files_rows, *wide, *shape[1 + len(middle) :]), sharded=True)


def _power_of_two(value: int, most: int) -> int:
    """Largest power of two that is at most `value` and `most`, at least 1."""
    return 1 << (max(1, min(value, most)).bit_length() - 1)
