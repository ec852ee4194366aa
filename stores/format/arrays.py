"""Reading arrays of a store: rows in any order, chunks decoded in parallel straight into the result.

Threads decode whole chunks (zstd releases the GIL), into the result itself if all of a chunk is wanted. A missing,
truncated or altered file is an `IntegrityError` that names it; lost data is never replaced by a fill value. Nothing
here writes.

An intact chunk may belong to another build. So the size and SHA-256 of a file are compared with the manifest when it is
first opened, and again when it has changed since. For image objects in a bucket that would mean fetching them whole;
there the size is compared, the manifest must be unchanged, and no object may change after it was opened.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stores.errors import IntegrityError, StorageError, StoreError
from stores.format import layout, manifest, shards
from stores.storage.bucket import BucketFile, BucketPath
from stores.storage.confine import require_inside
from stores.storage.location import LocalFile, Location, identity, open_file, parallel, version
from stores.system.threads import thread_pool

HASHED = 1 << 20  # bytes at a time
LARGE = 64 << 20  # bytes; before more is allocated, the files are checked to be long enough for it


class ImageArray:
    """An array of a store whose first axis counts images.

    Args:
        store: location of the store.
        name: path of the array in it, "copies/images".
        content: the store's manifest; None, or without `files`: files are not compared with it.

    Attributes:
        shape: of the array.
        dtype: of the array.
        block: rows of a chunk; rows k·block … (k+1)·block−1 are decoded together.
    """

    def __init__(self, store: Location, name: str, content: dict[str, Any] | None = None) -> None:
        self.store = store
        self._fingerprint, self._files = (content or {}).get("fingerprint"), (content or {}).get("files", {})
        self._manifest = version(store / "zarr.json") if self._files else None
        self.layout = layout.load(store, name, self._files.get(f"{name}/zarr.json", {}).get("sha256"))
        self._opened: dict[int, _ArrayFile] = {}  # files opened last, whose indices need not be read again
        self._opening: dict[int, threading.Lock] = {}
        self.shape = self.layout.shape
        self.dtype = np.dtype(self.layout.dtype)
        self.block = self.layout.chunk[0]

    def __len__(self) -> int:
        return self.shape[0]

    def read(
        self,
        rows: np.ndarray | range | None = None,
        copies: int | None = None,
        out: np.ndarray | None = None,
        workers: int | None = None,
    ) -> np.ndarray:
        """Read rows.

        Args:
            rows: int64 [n] in any order, repeats allowed; or a range of consecutive rows; None: all.
            copies: for arrays [N, A, …], only the first `copies` of each image.
            out: result array, C-contiguous [n, (copies,) …] of the array's dtype; None: a new one.
            workers: threads; None: the number of processors, more for a bucket; 1: the calling thread.

        Returns:
            [n, …] or [n, copies, …] of the array's dtype.

        Raises:
            IntegrityError: a file is missing or damaged.
            StoreError: a row is beyond the array, or the store was replaced since it was opened.
        """
        if rows is None:
            self._require_extent(range(self.layout.num_files))
            rows = range(len(self))
        if not isinstance(rows, range):
            rows = np.asarray(rows, np.int64)
            if len(rows) and len(rows) == rows[-1] - rows[0] + 1 and bool((np.diff(rows) == 1).all()):
                rows = range(int(rows[0]), int(rows[-1]) + 1)
        if len(rows):
            least, most = (rows[0], rows[-1]) if isinstance(rows, range) else (rows.min(), rows.max())
            if least < 0 or most >= len(self):
                raise StoreError(
                    f"array '{self.layout.name}' of '{self.store}' has {len(self)} rows",
                    "a row beyond it was asked for",
                )
        assert copies is None or 0 < copies <= self.shape[1]
        shape = (len(rows), *((copies,) if copies is not None else self.shape[1:2]), *self.shape[2:])
        if out is None:
            if len(rows) * self.layout.row_bytes > LARGE:
                per_file = self.layout.file[0]
                self._require_extent(
                    range(rows.start // per_file, (rows.stop - 1) // per_file + 1)
                    if isinstance(rows, range)
                    else np.unique(rows // per_file).tolist()
                )
            out = np.empty(shape, self.dtype)
        assert out.shape == shape and out.dtype == self.dtype
        if not len(rows):
            return out
        block = self.layout.chunk[0]
        if isinstance(rows, range):
            assert rows.step == 1
            first, last = rows.start, rows.stop
            starts = [first, *range((first // block + 1) * block, last, block), last]
            spans = [(start, out[start - first : stop - first]) for start, stop in itertools.pairwise(starts)]
            self._compare(range(first // self.layout.file[0], (last - 1) // self.layout.file[0] + 1), workers)
            self._each(self._read_span, spans, workers)
            return out
        in_order = np.argsort(rows, kind="stable")
        groups = np.split(in_order, np.flatnonzero(np.diff(rows[in_order] // block)) + 1)
        self._compare(np.unique(rows // self.layout.file[0]).tolist(), workers)
        self._each(self._read_block, [(rows, group, out) for group in groups], workers)
        return out

    def _each(self, read: Callable[..., None], calls: list[tuple[Any, ...]], workers: int | None) -> None:
        """Call `read` with each of these arguments, in threads."""
        workers = min(workers or parallel(self.store), len(calls))
        if workers <= 1:
            for call in calls:
                read(*call)
            return
        with thread_pool(workers) as pool:
            for future in [pool.submit(read, *call) for call in calls]:
                future.result()

    def _read_span(self, start: int, out: np.ndarray) -> None:
        """Decode consecutive rows of one block into `out`."""
        array = self.layout
        index, place = divmod(start // array.chunk[0], array.chunk_grid[0])
        inside = slice(start % array.chunk[0], start % array.chunk[0] + len(out))
        with self._open(index) as file:
            entries = file.entries[place]
            if out.shape == array.chunk:
                file.chunk(entries[0], out)
            elif out.ndim == 1:
                out[...] = file.chunk(entries[0])[inside]
            else:
                for first, entry in zip(range(0, out.shape[1], array.chunk[1]), entries, strict=False):
                    target = out[:, first : first + array.chunk[1]]
                    target[...] = file.chunk(entry)[inside, : target.shape[1]]

    def _read_block(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Decode `rows[places]`, all of one block, into `out[places]`."""
        array = self.layout
        start, consecutive = int(rows[places[0]]), bool(np.all(np.diff(places) == 1))
        if consecutive and bool(np.all(np.diff(rows[places]) == 1)):
            self._read_span(start, out[places[0] : places[-1] + 1])
            return
        index, place = divmod(start // array.chunk[0], array.chunk_grid[0])
        inside = rows[places] % array.chunk[0]
        with self._open(index) as file:
            if out.ndim == 1:
                out[places] = file.chunk(file.entries[place][0])[inside]
                return
            for first, entry in zip(range(0, out.shape[1], array.chunk[1]), file.entries[place], strict=False):
                last = min(first + array.chunk[1], out.shape[1])
                if consecutive:  # the usual case, with slices instead of index arrays
                    out[places[0] : places[-1] + 1, first:last] = file.chunk(entry)[inside, : last - first]
                else:
                    out[places, first:last] = file.chunk(entry)[inside, : last - first]

    def _require_extent(self, files: Iterable[int]) -> None:
        """Check that files are long enough for what the metadata says they hold, before memory is allocated for it."""
        for index in files:
            start, stop = self.layout.rows(index)
            with self._open(index) as file:
                file.require_room_for((stop - start) * self.layout.row_bytes)

    def _compare(self, files: Iterable[int], workers: int | None) -> None:
        """Open the files that have not been opened, so that they are compared with the manifest in parallel."""
        new = [(index,) for index in files if index not in self._opened]
        if len(new) > 1:
            self._each(lambda index: self._open(index).close(), new, workers)

    def _open(self, index: int) -> _ArrayFile:
        """Open a file of the array; its index is read only if the file has changed since it was last opened."""
        file = self._opened.get(index)
        if file is None or not file.is_still_there():
            with self._opening.setdefault(index, threading.Lock()):
                file = self._opened.get(index)
                if file is None or not file.is_still_there():  # unless another thread has opened it meanwhile
                    return self._open_anew(index)
        if isinstance(file.path, BucketPath):
            return file
        self._opened[index] = opened = _ArrayFile(self.layout, file.path, file)
        if opened.identity == file.identity:
            return opened
        opened.close()  # replaced meanwhile
        return self._open(index)

    def _open_anew(self, index: int) -> _ArrayFile:
        """Open a file and compare it with the manifest."""
        key = self.layout.key(index)
        path = self.store / key
        require_inside(self.store, path)
        try:
            opened = _ArrayFile(self.layout, path)
        except IntegrityError:
            self._require_same_store()
            raise
        try:
            self._require_same_store()
            if key in self._files:
                opened.require(self._files[key])
        except BaseException:
            opened.close()
            raise
        self._opened[index] = opened
        return opened

    def _require_same_store(self) -> None:
        """Check that the store has not been replaced since it was opened; a repair, with new checksums, is fine."""
        if self._manifest is None:
            return
        try:
            found = version(self.store / "zarr.json")
            if found == self._manifest:
                return
            content = manifest.read(self.store)
            same = content["fingerprint"] == self._fingerprint
        except StorageError:
            raise
        except (StoreError, FileNotFoundError):  # being rebuilt, or gone
            same = False
        if not same:
            raise StoreError(
                f"'{self.store}' was replaced while it was read",
                "its manifest is not the one it was opened with",
                "what was read before is right; bring the old store back to go on",
            )
        self._manifest, self._files = found, content["files"]


class _ArrayFile:
    """An open file of an array; its index is read at once, its chunks on demand.

    Args:
        array: layout of the array.
        path: of the file.
        before: the same file as it was opened before; its index is reused if the file is unchanged.
    """

    def __init__(self, array: layout.ArrayLayout, path: Location, before: _ArrayFile | None = None) -> None:
        self._array, self.path = array, path
        try:
            self._file = open_file(path)
        except (FileNotFoundError, NotADirectoryError):
            raise IntegrityError(
                f"'{path}' is missing",
                "the store's manifest says that it was written",
                "`realmix-data repair` restores what follows from the rest",
            ) from None
        try:
            size = self._file.size
            self.identity = self._file.identity if isinstance(self._file, LocalFile) else None
            if before is not None and before.identity == self.identity:
                self.entries: np.ndarray = before.entries
            else:
                self.entries = shards.read_index(array, size, lambda n: self._file.read(size - n, n), path)
        except BaseException:
            self._file.close()
            raise

    def require(self, expected: dict[str, Any]) -> None:
        """Compare the file with its entry in the manifest; raises IntegrityError."""
        size, digest = self._file.size, hashlib.sha256()
        if size == expected["bytes"]:
            if isinstance(self._file, BucketFile) and self._array.sharded:
                return
            for start in range(0, size, HASHED):
                digest.update(self._file.read(start, min(HASHED, size - start)))
            if digest.hexdigest() == expected["sha256"]:
                return
        raise shards.damaged(self.path, "it is not the file that the store's manifest names")

    def is_still_there(self) -> bool:
        """Whether the file at its path is unchanged; objects of a bucket are checked when they are read."""
        if isinstance(self.path, BucketPath):
            return True
        try:
            return isinstance(self.path, Path) and identity(self.path.stat()) == self.identity
        except OSError:
            return False

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def require_room_for(self, raw: int) -> None:
        if raw > self._file.size * shards.EXPANSION:
            raise shards.damaged(self.path, f"its {self._file.size} bytes cannot hold the {raw} that they should")

    def chunk(self, entry: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Decode a chunk into `out`, C-contiguous and of a chunk's shape, or else into a buffer of this thread."""
        offset, length = int(entry[0]), int(entry[1])
        if offset == shards.MISSING:
            raise shards.damaged(self.path, "a chunk is missing")
        frame = self._file.read(offset, length)
        return shards.decode_chunk(self._array, frame, self.path, lambda: _scratch(self._array) if out is None else out)


_THREAD = threading.local()


def _scratch(array: layout.ArrayLayout) -> np.ndarray:
    """This thread's buffer for one decoded chunk; page faults of new memory would cost more than decoding."""
    chunk: np.ndarray | None = getattr(_THREAD, "chunk", None)
    if chunk is None or chunk.shape != array.chunk or chunk.dtype != array.dtype:
        _THREAD.chunk = chunk = np.empty(array.chunk, array.dtype)
    return chunk
