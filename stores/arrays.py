"""Arrays of a store, decoded in parallel straight into place.

Whole chunks are decoded by threads (zstd frees the GIL), without a copy in between where all of a chunk is wanted. A
missing, truncated or altered file is an `IntegrityError` that names it; a fill value is never returned for lost data.
Nothing here writes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from stores import layout, shards
from stores.confine import require_inside
from stores.errors import IntegrityError, StoreError
from stores.storage import BucketPath, LocalFile, Location, identity, open_file, parallel

LARGE = 64 << 20  # bytes: before taking more, look whether the files can hold it


class ImageArray:
    """An array of a store whose first axis counts images; `shape`, `dtype`, `block`, and `read`.

    `block` rows, from a multiple of it on, are decoded together: reading fewer of them saves nothing.
    """

    def __init__(self, store: Location, name: str, sha256: str | None = None) -> None:
        self.store = store
        self.layout = layout.load(store, name, sha256)
        self._opened: dict[int, _ArrayFile] = {}  # latest, whose indices need not be read again
        self.shape = self.layout.shape
        self.dtype = np.dtype(self.layout.dtype)
        self.block = self.layout.chunk[0]

    def __len__(self) -> int:
        return self.shape[0]

    def read(
        self, rows: np.ndarray | None = None, copies: int | None = None, out: np.ndarray | None = None,
        workers: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Decode rows.

        Args:
            rows: int64 [n] in any order, repeats allowed; None for all.
            copies: for arrays [N, A, …], only the first `copies` of each image.
            out: where to put them, C-contiguous [n, (copies,) …] of the array's dtype.
            workers: threads; as many as there are processors by default, more for a bucket; 1: the calling one.

        Returns:
            [n, …] or [n, copies, …] of the array's dtype.

        Raises:
            IntegrityError: a file is missing or damaged; it is named.
        """
        if rows is None:
            self._require_extent(range(self.layout.num_files))
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise StoreError(
                f"array '{self.layout.name}' of '{self.store}' has {len(self)} rows", "a row beyond it was asked for"
            )
        assert copies is None or 0 < copies <= self.shape[1]
        shape = (len(rows), *((copies,) if copies is not None else self.shape[1:2]), *self.shape[2:])
        if out is None:
            if len(rows) * self.layout.row_bytes > LARGE:
                self._require_extent(np.unique(rows // self.layout.file[0]).tolist())
            out = np.empty(shape, self.dtype)
        assert out.shape == shape and out.dtype == self.dtype
        in_order = np.argsort(rows, kind="stable")
        block = self.layout.chunk[0]
        cuts = np.flatnonzero(np.diff(rows[in_order] // block)) + 1
        groups = np.split(in_order, cuts) if rows.size else []
        workers = min(workers or parallel(self.store), len(groups))
        if workers <= 1:
            for group in groups:
                self._read_block(rows, group, out)
            return out
        with ThreadPoolExecutor(workers) as pool:
            for future in [pool.submit(self._read_block, rows, group, out) for group in groups]:
                future.result()
        return out

    def _read_block(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Decode the chunks that hold `rows[places]`, all of one block of rows, into `out[places]`."""
        array = self.layout
        block, start = divmod(int(rows[places[0]]) // array.chunk[0], array.chunk_grid[0])
        inside = rows[places] % array.chunk[0]
        wide = out.shape[1] if out.ndim > 1 else 1
        consecutive = bool(np.all(np.diff(places) == 1))
        with self._open(block) as file:
            entries = file.entries[start]
            whole = out[places[0] : places[-1] + 1]
            if consecutive and whole.shape == array.chunk and np.array_equal(inside, np.arange(array.chunk[0])):
                file.chunk(entries[0], whole)
                return
            for i, entry in enumerate(entries):
                first = i * array.chunk[1] if len(entries) > 1 else 0
                if first >= wide:
                    break
                chunk = file.chunk(entry)
                if out.ndim == 1:
                    out[places] = chunk[inside]
                    continue
                last = min(first + array.chunk[1], wide)
                if consecutive:  # the usual case: one copy, no index arrays
                    target = out[places[0] : places[-1] + 1, first:last]
                    if np.all(np.diff(inside) == 1):
                        target[...] = chunk[inside[0] : inside[-1] + 1, : last - first]
                        continue
                    target[...] = chunk[inside, : last - first]
                else:
                    out[places, first:last] = chunk[inside, : last - first]

    def _require_extent(self, files: Iterable[int]) -> None:
        """Before memory is taken for what the metadata says these files hold: they must be long enough to hold it."""
        for index in files:
            start, stop = self.layout.rows(index)
            with self._open(index) as file:
                file.require_room_for((stop - start) * self.layout.row_bytes)

    def _open(self, index: int) -> _ArrayFile:
        """A file of the array, to be closed; of one that is as it was when it was opened before, the index is known."""
        file = self._opened.get(index)
        if file is not None and isinstance(file.path, BucketPath):
            return file
        path = self.store / self.layout.key(index)
        if file is None or not file.is_still_there():
            require_inside(self.store, path)
            file = None
        self._opened[index] = opened = _ArrayFile(self.layout, path, file)
        return opened


class _ArrayFile:
    """One file of an array: its index read first, its chunks on demand.

    Args:
        before: the same file, opened and closed before.
    """

    def __init__(self, array: layout.ArrayLayout, path: Location, before: _ArrayFile | None = None) -> None:
        self._array, self.path = array, path
        try:
            self._file = open_file(path)
        except (FileNotFoundError, NotADirectoryError):
            raise IntegrityError(
                f"'{path}' is missing",
                "the store's manifest says that it was written",
                "`realmix-data repair` mends what follows from the rest",
            ) from None
        try:
            size = self._file.size
            self.identity = self._file.identity if isinstance(self._file, LocalFile) else None
            if before is not None and before.identity == self.identity:
                self.entries = before.entries
                return
            self.entries = shards.read_index(array, size, lambda n: self._file.read(size - n, n), path)
        except BaseException:
            self._file.close()
            raise

    def is_still_there(self) -> bool:
        """Whether the path leads to what it led to, unchanged."""
        try:
            return identity(os.stat(self.path)) == self.identity  # noqa: PTH116
        except OSError:
            return False

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def require_room_for(self, raw: int) -> None:
        if raw > self._file.size * shards.EXPANSION:
            raise shards.damaged(self.path, f"its {self._file.size} bytes cannot hold the {raw} that they should")

    def chunk(self, entry: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Decode one chunk into `out`, C-contiguous and of a chunk's shape, or into a buffer of this thread's."""
        offset, length = int(entry[0]), int(entry[1])
        if offset == shards.MISSING:
            raise shards.damaged(self.path, "a chunk is missing")
        frame = self._file.read(offset, length)
        shards.check_frame(self._array, frame, self.path)  # before there is a buffer of the size that metadata claim
        return shards.decode_chunk(self._array, frame, self.path, _scratch(self._array) if out is None else out)


_THREAD = threading.local()


def _scratch(array: layout.ArrayLayout) -> np.ndarray:
    """This thread's buffer for one decoded chunk; fresh memory would cost more in page faults than decoding."""
    if getattr(_THREAD, "chunk", None) is None or (_THREAD.chunk.shape, _THREAD.chunk.dtype) != (
        array.chunk,
        array.dtype,
    ):
        _THREAD.chunk = np.empty(array.chunk, array.dtype)
    return _THREAD.chunk
