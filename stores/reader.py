"""Reading stores: arrays of images decoded in parallel straight into place, and the two kinds of store.

Whole chunks are decoded by threads (zstd frees the GIL). A missing, truncated or altered file is an `IntegrityError`
that names it; a fill value is never returned for lost data. Nothing here writes.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stores import layout, manifest, shards
from stores.errors import IntegrityError, StoreError


class ImageArray:
    """An array of a store whose first axis counts images; `shape`, `dtype`, and `read`."""

    def __init__(self, store: Path, name: str) -> None:
        self._store = store
        self.layout = layout.load(store, name)
        self.shape = self.layout.shape
        self.dtype = np.dtype(self.layout.dtype)

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
            workers: threads; as many as there are processors by default.

        Returns:
            [n, …] or [n, copies, …] of the array's dtype.

        Raises:
            IntegrityError: a file is missing or damaged; it is named.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise StoreError(
                f"array '{self.layout.name}' of '{self._store}' has {len(self)} rows", "a row beyond it was asked for"
            )
        assert copies is None or 0 < copies <= self.shape[1]
        shape = (len(rows), *((copies,) if copies is not None else self.shape[1:2]), *self.shape[2:])
        out = np.empty(shape, self.dtype) if out is None else out
        assert out.shape == shape and out.dtype == self.dtype
        in_order = np.argsort(rows, kind="stable")
        block = self.layout.chunk[0]
        cuts = np.flatnonzero(np.diff(rows[in_order] // block)) + 1
        groups = np.split(in_order, cuts) if rows.size else []
        with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
            for future in [pool.submit(self._read_block, rows, group, out) for group in groups]:
                future.result()
        return out

    def _read_block(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Decode the chunks that hold `rows[places]`, all of one block of rows, into `out[places]`."""
        array = self.layout
        block, start = divmod(int(rows[places[0]]) // array.chunk[0], array.chunk_grid[0])
        path = self._store / array.key(block)
        inside = rows[places] % array.chunk[0]
        wide = out.shape[1] if out.ndim > 1 else 1
        with _ArrayFile(array, path) as file:
            entries = file.entries[start]
            for i, entry in enumerate(entries):
                first = i * array.chunk[1] if len(entries) > 1 else 0
                if first >= wide:
                    break
                chunk = file.chunk(entry)
                if out.ndim == 1:
                    out[places] = chunk[inside]
                    continue
                last = min(first + array.chunk[1], wide)
                if len(places) > 1 and np.all(np.diff(places) == 1):  # the usual case: one copy, no index arrays
                    target = out[places[0] : places[-1] + 1, first:last]
                    if np.all(np.diff(inside) == 1):
                        target[...] = chunk[inside[0] : inside[-1] + 1, : last - first]
                        continue
                    target[...] = chunk[inside, : last - first]
                else:
                    out[places, first:last] = chunk[inside, : last - first]


class DatasetStore:
    """Pixels, once: base images, labels, the test set, and every training image's copies. Open with `open_store`.

    Attributes:
        path, name: where it is, and its folder's name.
        manifest: see FORMAT.md.
        fingerprint: hex digest of what it holds, whatever the codec and chunks.
        num_images, num_copies: N and A (0 copies: base images only).
        image_size: (H, W).
        class_names: names of the source's classes.
        weak: {"flip": bool, "shift": pixels}, the dataset's weak augmentation.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.name, self.manifest = path, path.resolve().name, content
        self.fingerprint: str = content.get("fingerprint", "")
        self.num_images: int = content["num_images"]
        self.num_copies: int = content["num_copies"]
        self.image_size: tuple[int, int] = tuple(content["image_size"])
        self.class_names: list[str] = content["class_names"]
        self.weak: dict[str, Any] = content["weak"]

    @cached_property
    def train_images(self) -> ImageArray:
        """uint8 [N, H, W, 3]"""
        return ImageArray(self.path, "train/images")

    @cached_property
    def test_images(self) -> ImageArray:
        """uint8 [M, H, W, 3]"""
        return ImageArray(self.path, "test/images")

    @cached_property
    def copies(self) -> ImageArray | None:
        """uint8 [N, A, H, W, 3]; None in a store without copies."""
        return ImageArray(self.path, "copies/images") if self.num_copies else None

    @cached_property
    def train_labels(self) -> np.ndarray:
        """int64 [N], −1 = no label"""
        return self._table("train/labels")

    @cached_property
    def test_labels(self) -> np.ndarray:
        """int64 [M]"""
        return self._table("test/labels")

    @cached_property
    def source_index(self) -> np.ndarray:
        """int64 [N]: which image of the source each row is (rows are in a fixed random order)."""
        return self._table("train/source_index")

    @cached_property
    def folds(self) -> np.ndarray | None:
        """int64 [F, n] rows of predefined labelled folds (STL-10); None elsewhere."""
        return ImageArray(self.path, "folds").read() if (self.path / "folds").is_dir() else None

    def read_params(self, rows: np.ndarray | None = None) -> np.ndarray:
        """What was drawn for each copy: int32 [n, A, P]; `manifest["spec"]["recipe"]` names the columns."""
        return ImageArray(self.path, "copies/params").read(rows)

    def _table(self, name: str) -> np.ndarray:
        return ImageArray(self.path, name).read()


class SplitStore:
    """Which images are labelled, unlabelled, held out and tested on. Open with `open_store`.

    Attributes:
        dataset: the dataset store it points to.
        protocol: "labels", "mismatch" or "folds"; seed: of the draw; gamma: suggested share for the OOD mask.
        labeled, unlabeled, valid: int64 rows of the dataset's train part; the labelled ones are not in `unlabeled`.
        test: int64 rows of its test part.
        class_names, num_classes: the classes trained on.
        train_labels, test_labels: int64, labels of all rows as training classes; −1 = another class, or no label.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.name, self.manifest = path, path.resolve().name, content
        self.fingerprint: str = content["fingerprint"]
        self.protocol: str = content["protocol"]
        self.seed: int = content["seed"]
        self.gamma = float(content["gamma"])
        self.class_names: list[str] = content["class_names"]
        self.num_classes = len(self.class_names)
        self.dataset = self._open_dataset()
        self.labeled, self.unlabeled, self.valid, self.test = (
            self._rows(name, len(self.dataset.test_labels) if name == "test" else self.dataset.num_images)
            for name in ("labeled", "unlabeled", "valid", "test")
        )
        to_training = np.array([*content["class_map"], -1], np.int64)  # index −1 is the last: no label stays no label
        if len(to_training) != len(self.dataset.class_names) + 1 or to_training.max() >= self.num_classes:
            raise StoreError(f"the manifest of '{path}' is damaged", "class_map does not fit the classes")
        self.train_labels = to_training[self.dataset.train_labels]
        self.test_labels = to_training[self.dataset.test_labels]

    def _open_dataset(self) -> DatasetStore:
        asked = self.manifest["dataset"]
        path = self.path.resolve().parent / asked["name"]
        if not path.is_dir():
            raise StoreError(
                f"the dataset store of '{self.path}' is gone",
                f"'{path}' does not exist; split and dataset lie side by side",
                f"move '{asked['name']}' back, or make the split again: `realmix-data split DATASET …`",
            )  # fmt: skip
        dataset = DatasetStore(path, _content(path, "dataset"))
        if dataset.fingerprint != asked["fingerprint"]:
            raise StoreError(
                f"'{path}' is not the dataset store that '{self.path}' was made from",
                f"its fingerprint is {dataset.fingerprint[:16]}…, the split expects {str(asked['fingerprint'])[:16]}…",
                "bring the old dataset store back, or make the split again under another --name",
            )
        return dataset

    def _rows(self, name: str, limit: int) -> np.ndarray:
        rows = ImageArray(self.path, name).read() if self.manifest["counts"].get(name) else np.empty(0, np.int64)
        if len(rows) != self.manifest["counts"].get(name) or (rows.size and not 0 <= rows.min() <= rows.max() < limit):
            raise IntegrityError(
                f"array '{name}' of '{self.path}' is damaged", "its indices do not fit the dataset store"
            )
        return rows


def open_store(path: str | Path, *, incomplete: bool = False) -> DatasetStore | SplitStore:
    """Open a store: the one way in.

    Args:
        path: folder of a dataset store or of a split store.
        incomplete: also open a dataset store whose build has not finished.

    Raises:
        StoreError: it is missing, unfinished, of another version, or its dataset store moved or changed.
        IntegrityError: a file it needs is damaged.
    """
    path = Path(path)
    content = manifest.read(path, incomplete=incomplete)
    return (DatasetStore if content["kind"] == "dataset" else SplitStore)(path, content)


def _content(path: Path, kind: str) -> dict[str, Any]:
    content = manifest.read(path)
    if content["kind"] != kind:
        raise StoreError(f"'{path}' is a {content['kind']} store, a {kind} store was expected")
    return content


class _ArrayFile:
    """One file of an array: its index read first, its chunks on demand."""

    def __init__(self, array: layout.ArrayLayout, path: Path) -> None:
        self._array, self._path = array, path

    def __enter__(self) -> _ArrayFile:
        try:
            self._fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise IntegrityError(
                f"'{self._path}' is missing",
                "the store's manifest says that it was written",
                "build the store again to mend it",
            ) from None
        size = os.fstat(self._fd).st_size
        self.entries = shards.read_index(self._array, size, lambda n: os.pread(self._fd, n, size - n), self._path)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def chunk(self, entry: np.ndarray) -> np.ndarray:
        offset, length = int(entry[0]), int(entry[1])
        if offset == shards.MISSING:
            raise shards.damaged(self._path, "a chunk is missing")
        return shards.decode_chunk(self._array, os.pread(self._fd, length, offset), self._path, _scratch(self._array))


_THREAD = threading.local()


def _scratch(array: layout.ArrayLayout) -> np.ndarray:
    """This thread's buffer for one decoded chunk; fresh memory would cost more in page faults than decoding."""
    if getattr(_THREAD, "chunk", None) is None or (_THREAD.chunk.shape, _THREAD.chunk.dtype) != (
        array.chunk,
        array.dtype,
    ):
        _THREAD.chunk = np.empty(array.chunk, array.dtype)
    return _THREAD.chunk
