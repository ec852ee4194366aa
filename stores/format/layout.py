"""The layout of a store's arrays: how each is split into files and chunks, and its zarr v3 metadata.

    file (shard)  consecutive rows of the first axis with all other axes; written whole, by one writer, with a checksum
    chunk         what zstd compresses together; an image file holds many, found through the index at its end

Image arrays use zarr's sharding codec. Small arrays (labels, params, indices) have one chunk per file and no index.
Every chunk is followed by the CRC32C of its compressed bytes. Nothing here reads or writes pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from stores.errors import IntegrityError, StoreError
from stores.format import manifest
from stores.format.fields import MOST
from stores.storage.confine import read_inside, require_inside
from stores.storage.location import Location

ZSTD_LEVEL = 1
CHUNK_BYTES = 10 << 20  # raw bytes of a chunk of copies: 64 images × 50 copies at 32×32
LARGE_CHUNK_BYTES = 32 << 20  # the same for one large image, so that its 50 copies share a chunk up to 457×457
CHUNKS_OF_LARGE_IMAGES = (LARGE_CHUNK_BYTES, CHUNK_BYTES)  # of this version, and of those until 0.1.0
BASE_CHUNK_BYTES = 1 << 20
LARGEST_CHUNK = 64 << 20  # raw bytes; no chunk laid out here is larger unless a single image is
CHUNKS_PER_FILE = 16
COPIES_PER_CHUNK = 50
EMBEDDINGS_PER_FILE = 1024  # what a killed job computes again
_AXES = {4: ("image", "y", "x", "channel"), 5: ("image", "copy", "y", "x", "channel")}
_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


@dataclass(frozen=True)
class ArrayLayout:
    """Layout of one array.

    Attributes:
        name: path inside the store, "copies/images".
        shape: full shape; the first axis counts images (or labels).
        dtype: NumPy name: "uint8", "int32", "int64" or "float16", little-endian.
        chunk: shape of a chunk; splits the first axis, for copies also the second, no other.
        file: shape of a file: a multiple of `chunk`; splits the first axis only.
        sharded: whether a file has an index of its chunks; if not, `file == chunk`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    file: tuple[int, ...]
    sharded: bool

    @property
    def num_files(self) -> int:
        return math.ceil(self.shape[0] / self.file[0])

    @property
    def row_bytes(self) -> int:
        """Raw bytes of one row (one image, or all copies of one image)."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @cached_property
    def chunk_bytes(self) -> int:
        """Raw bytes of one chunk; a Python integer, because a product of hostile numbers must not overflow."""
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
        """First row of the `index`-th file, and the row after its last."""
        return index * self.file[0], min((index + 1) * self.file[0], self.shape[0])

    def metadata(self) -> dict[str, bytes]:
        """The zarr.json of the groups above the array and of the array itself, by path, in the order of writing.

        Written out here, so that every version of zarr-python leaves the same bytes.
        """
        groups = [f"{group}/zarr.json" for group in reversed(PurePosixPath(self.name).parents[:-1])]
        meta: dict[str, Any] = {
            "shape": self.shape,
            "data_type": self.dtype,
            "chunk_grid": _named("regular", chunk_shape=self.file),
            "chunk_key_encoding": _named("default", separator="/"),
            "fill_value": 0,
            "codecs": self._codecs(),
            "attributes": {},
            "dimension_names": _AXES.get(len(self.shape)),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
        if meta["dimension_names"] is None:
            del meta["dimension_names"]
        return {key: _json(_GROUP) for key in groups} | {f"{self.name}/zarr.json": _json(meta)}

    def _codecs(self) -> list[dict[str, Any]]:
        to_bytes = _named("bytes") if self.dtype == "uint8" else _named("bytes", endian="little")
        codecs = [to_bytes, _named("zstd", level=ZSTD_LEVEL, checksum=False), _named("crc32c")]
        if not self.sharded:
            return codecs
        index = [_named("bytes", endian="little"), _named("crc32c")]
        return [
            _named("sharding_indexed", chunk_shape=self.chunk, codecs=codecs, index_codecs=index, index_location="end")
        ]

    def create(self, store: Location) -> ArrayLayout:
        """Write the zarr.json of the array and of the groups above it, where it is missing or damaged; no data.

        Returns:
            This layout; or the one that is there, if a build by another version has begun the array with other chunks.
        """
        begun = self._begun(store)
        for key, data in begun.metadata().items():
            path = store / key
            require_inside(store, path)
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                manifest.write_atomically(path, data)
        return begun

    def _begun(self, store: Location) -> ArrayLayout:
        """The layout in the array's zarr.json, if it is that of the same array, in other chunks; otherwise this one."""
        key = f"{self.name}/zarr.json"
        try:
            found = load(store, self.name)
            intact = read_inside(store, store / key) == found.metadata()[key]
        except (StoreError, IntegrityError):
            return self
        same = (found.shape, found.dtype, found.sharded) == (self.shape, self.dtype, self.sharded)
        return found if intact and same else self


def images(name: str, count: int, height: int, width: int) -> ArrayLayout:
    """Layout of base images, uint8 [N, H, W, 3]."""
    rows = _power_of_two(BASE_CHUNK_BYTES // (height * width * 3), 256)
    return _sharded(name, (count, height, width, 3), rows)


def copies(
    name: str, count: int, num_copies: int, height: int, width: int, largest: int = LARGE_CHUNK_BYTES
) -> ArrayLayout:
    """Layout of stored copies, uint8 [N, A, H, W, 3]; copies of an image are adjacent, to be compressed together.

    Args:
        largest: raw bytes of a chunk that holds copies of one image; `CHUNK_BYTES` until version 0.1.0.
    """
    per_chunk = max(1, min(num_copies, COPIES_PER_CHUNK, largest // (height * width * 3)))
    rows = _power_of_two(CHUNK_BYTES // (per_chunk * height * width * 3), 64)
    return _sharded(name, (count, num_copies, height, width, 3), rows, per_chunk)


def params(name: str, of: ArrayLayout, num_params: int) -> ArrayLayout:
    """Layout of the copies' parameters, int32 [N, A, P]: one file for each file of copies."""
    shape = (of.shape[0], of.shape[1], num_params)
    file = (of.file[0], *shape[1:])
    return ArrayLayout(name, shape, "int32", file, file, sharded=False)


def embeddings(name: str, *shape: int) -> ArrayLayout:
    """Layout of embeddings, float16 [N, D], or [N, K, D] for K copies of each image; one chunk per file."""
    rows = max(1, min(shape[0], EMBEDDINGS_PER_FILE // math.prod(shape[1:-1])))
    file = (rows, *shape[1:])
    return ArrayLayout(name, shape, "float16", file, file, sharded=False)


def table(name: str, array: np.ndarray) -> ArrayLayout:
    """Layout of a small array: one file, one chunk."""
    shape = tuple(max(1, n) for n in array.shape)
    return ArrayLayout(name, array.shape, str(array.dtype), shape, shape, sharded=False)


def load(store: Location, name: str, sha256: str | None = None) -> ArrayLayout:
    """Read the layout of an array from its zarr.json.

    Args:
        sha256: digest of that file in the manifest; None: it is not compared.

    Raises:
        StoreError: it is missing, or describes an array that this module does not lay out.
        IntegrityError: its digest is another one.
    """
    path = store / name / "zarr.json"
    try:
        data = read_inside(store, path)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"'{store}' has no array '{name}'", f"'{path}' is missing") from None
    if sha256 not in (None, hashlib.sha256(data).hexdigest()):
        why = "its SHA-256 is not the one in the manifest"
        raise IntegrityError(f"'{path}' is damaged", why, "`realmix-data repair` restores it")
    try:
        layout = _parsed(name, json.loads(data))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"'{path}' is not zarr v3 array metadata", f"{type(error).__name__}: {error}") from None
    if layout is None:
        raise StoreError(
            f"array '{name}' of '{store}' is not laid out as a realmix store",
            "its codecs, data type or chunk grid were not written by realmix-data",
        )
    return layout


def _parsed(name: str, meta: dict[str, Any]) -> ArrayLayout | None:
    """The layout that an array's metadata describes; None if this package writes none like it."""
    outer = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
    inner, codecs, sharded = outer, meta["codecs"], meta["codecs"][0]["name"] == "sharding_indexed"
    ours = meta["node_type"] == "array"
    if sharded:
        config = codecs[0]["configuration"]
        inner, codecs = tuple(config["chunk_shape"]), config["codecs"]
        ours &= [codec["name"] for codec in config["index_codecs"]] == ["bytes", "crc32c"]
        ours &= config.get("index_location", "end") == "end"
    layout = ArrayLayout(name, tuple(meta["shape"]), str(meta["data_type"]), inner, outer, sharded)
    ours &= [codec["name"] for codec in codecs] == ["bytes", "zstd", "crc32c"]
    ours &= layout.dtype in ("uint8", "int32", "int64", "float16")
    ours &= all(codec.get("configuration", {}).get("endian", "little") == "little" for codec in codecs)
    ours &= all(type(n) is int and 0 <= n <= MOST for n in (*layout.shape, *inner, *outer))
    ours &= len(layout.shape) == len(inner) == len(outer) > 0
    ours &= all(0 < c <= f and f % c == 0 for c, f in zip(inner, outer, strict=True))
    ours &= all(c >= n for c, n in zip(outer[1:], layout.shape[1:], strict=True))
    ours &= inner[2:] == outer[2:] == tuple(max(1, n) for n in layout.shape[2:])
    ours &= not sharded or math.prod(inner) <= LARGEST_CHUNK
    return layout if ours else None


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


def _named(name: str, **configuration: object) -> dict[str, Any]:
    return {"name": name, "configuration": configuration} if configuration else {"name": name}


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()
