"""Reading a store's `.beton` files with FFCV's Loader: by row, like a zarr array, or as shuffled batches.

The CRC32C, row and copy of every image are compared, because FFCV checks nothing. FFCV compiles its readers for the
first batch, which takes a second or two. It runs in one thread here, which is already as fast as memory and needs no
numba threading layer. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any, Literal

import google_crc32c
import numpy as np

from stores.errors import IntegrityError, RealMixError, StoreError
from stores.ffcv import beton
from stores.ffcv.beton import BASE, Beton
from stores.format import layout
from stores.storage.location import Location, sha256_of

_MEND = "`realmix-data export STORE --format ffcv` writes it again"
BATCH_BYTES = 4 << 20  # of pixels that FFCV hands over at a time
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # images uint8 [n, H, W, 3], row int64 [n], copy int64 [n]


class BetonArray:
    """The images or copies in a `.beton`, with `shape`, `dtype`, `block` and `read` as in `stores.ImageArray`.

    Args:
        store: location of the store.
        file: the beton.
        sha256: digest of the file in the manifest, compared before the first image is read; None: not compared.
    """

    def __init__(self, store: Location, file: Beton, sha256: str | None = None) -> None:
        self._path, self._file, self._sha256 = beton.require_local(store) / file.name, file, sha256
        self.shape: tuple[int, ...] = (file.rows, *((file.copies,) if file.copies else ()), *file.image)
        self.dtype = np.dtype(np.uint8)
        as_zarr = layout.copies("", *self.shape[:-1]) if file.copies else layout.images("", *self.shape[:-1])
        self.block = as_zarr.chunk[0]  # of the zarr array, so that streaming has the same order with both formats
        self._order: Any = None
        self._loader: Any = None
        self._one_at_a_time = threading.Lock()

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
            rows: int64 [n] in any order, repeats allowed; or a range; None: all.
            copies: for copies, only the first `copies` of each image.
            out: result array, C-contiguous uint8 [n, (copies,) H, W, 3]; None: a new one.
            workers: ignored; FFCV reads in one thread.

        Returns:
            uint8 [n, H, W, 3] or [n, copies, H, W, 3].

        Raises:
            IntegrityError: the file is missing or damaged.
            UsageError: FFCV is not installed.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise StoreError(f"'{self._path}' has {len(self)} rows", "a row beyond it was asked for")
        assert copies is None or 0 < copies <= self._file.copies
        shape = (len(rows), *((copies,) if copies is not None else self.shape[1:-3]), *self._file.image)
        out = np.empty(shape, self.dtype) if out is None else out
        assert out.shape == shape and out.dtype == self.dtype and out.flags.c_contiguous
        flat, samples = out.reshape(-1, *self._file.image), samples_of(self._file, rows, copies)
        with self._one_at_a_time:
            for start in range(0, len(samples), self._file.samples):  # FFCV's epoch is at most as long as the file
                wanted = samples[start : start + self._file.samples]
                self._read(wanted, flat[start : start + len(wanted)])
        return out

    def require_own(self) -> None:
        """Raise an IntegrityError if the file is missing or not the manifest's; reads the whole file."""
        beton.check(self._path, self._file)  # first, because its errors say more
        if self._sha256 not in (None, sha256_of(self._path)[1]):
            raise IntegrityError(f"'{self._path}' is damaged", "it is not the file that the manifest names", _MEND)

    def _read(self, samples: np.ndarray, out: np.ndarray) -> None:
        if self._loader is None:
            self.require_own()
            self._order = _asked_order(self._file.samples)
            self._loader = open_loader(self._path, self._file, batch(self._file), self._order)
        self._order.samples = samples.astype(np.uint64)
        done = 0
        for images, row, copy in epoch(self._loader):
            place = slice(done, done + len(images))
            require_samples(self._path, self._file, samples[place], row, copy)
            out[place] = images
            done += len(images)
        assert done == len(samples)


class BetonLoader:
    """Shuffled batches from FFCV's Loader, for your own training code; each `for` over it is an epoch.

        for images, row, copy in BetonLoader(store.dataset.beton(), store.unlabeled, 256):

    Args:
        array: `beton()` of a dataset store, or `beton(base=True)` for the images themselves.
        rows: int64 rows, without repeats, such as a split's `unlabeled`; None: all.
        batch_size: samples in a batch.
        copies: only the first `copies` of each image; None: all.
        order: "random": a permutation for every epoch, a function of (seed, epoch); "sequential": the order of `rows`.
        seed: of the order.
        drop_last: leave out the last batch if it is smaller.

    Yields:
        images uint8 [n, H, W, 3], row int64 [n], copy int64 [n] (−1 = the image itself). FFCV overwrites them after the
        next batch: copy what you keep.

    Raises:
        IntegrityError: the file is missing or damaged.
        UsageError: FFCV is not installed.
    """

    def __init__(
        self,
        array: BetonArray,
        rows: np.ndarray | None,
        batch_size: int,
        *,
        copies: int | None = None,
        order: Literal["random", "sequential"] = "random",
        seed: int = 1,
        drop_last: bool = False,
    ) -> None:
        array.require_own()
        self._file, self._path = array._file, array._path
        rows = np.arange(len(array)) if rows is None else np.asarray(rows, np.int64)
        assert rows.ndim == 1 and (not rows.size or 0 <= rows.min() <= rows.max() < len(array))
        assert copies is None or 0 < copies <= self._file.copies
        self._samples = samples_of(self._file, rows, copies)
        beton.import_ffcv()
        from ffcv.loader import OrderOption

        self._loader = open_loader(
            self._path,
            self._file,
            batch_size,
            OrderOption.RANDOM if order == "random" else OrderOption.SEQUENTIAL,
            indices=self._samples.astype(np.uint64),
            seed=seed,
            drop_last=drop_last,
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return epoch(self._loader)


def samples_of(file: Beton, rows: np.ndarray, copies: int | None) -> np.ndarray:
    """Samples of a beton, int64 [n · copies], that hold the first `copies` of these rows; None: all copies."""
    if not file.copies:
        return rows
    return (rows[:, None] * file.copies + np.arange(copies or file.copies)).reshape(-1)


def batch(file: Beton) -> int:
    """Samples FFCV decodes at a time: about `BATCH_BYTES` of pixels."""
    return max(1, min(BATCH_BYTES // file.image_bytes, file.samples))


def open_loader(path: Any, file: Beton, batch_size: int, order: Any, **options: Any) -> Any:
    """FFCV's Loader of a beton that has been checked."""
    beton.import_ffcv()
    beton.check(path, file)
    from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
    from ffcv.loader import Loader

    pipelines = {"image": [NDArrayDecoder()]} | {name: [IntDecoder()] for name in ("row", "copy", "crc32c")}
    with beton.torch_threads_kept():
        return Loader(
            str(path),
            batch_size=batch_size,
            num_workers=1,
            order=order,
            pipelines=pipelines,
            **{"drop_last": False, "seed": 0, **options},
        )


def epoch(loader: Any) -> Iterator[Batch]:
    """One epoch of FFCV's Loader, with the checksum of each image compared.

    FFCV's reading thread ends with this generator, wherever the caller stops. If the thread dies, this raises; FFCV's
    own iterator would wait forever.

    Raises:
        IntegrityError: an image is not what was written.
        RealMixError: FFCV's thread died.
    """
    with contextlib.ExitStack() as stack:
        with beton.torch_threads_kept():  # FFCV's thread sets them too, before its first batch
            batches = iter(loader)
            stack.callback(_end, batches)
            item = _next(batches)
        while item is not None:
            images, row, copy, stored = item
            row, copy, stored = row[:, 0], copy[:, 0], stored[:, 0]
            found = [google_crc32c.value(image.tobytes()) for image in images]
            if (wrong := np.flatnonzero(stored != found)).size:
                at = wrong[0]
                raise IntegrityError(
                    f"'{loader.fname}' is damaged",
                    f"row {row[at]}, copy {copy[at]}: the pixels are not those written",
                    _MEND,
                )
            yield images, row, copy
            item = _next(batches)


def require_samples(path: Any, file: Beton, samples: np.ndarray, row: np.ndarray, copy: np.ndarray) -> None:
    """Raise an IntegrityError if FFCV returned other samples than were requested."""
    rows, copies = np.divmod(samples, file.copies or 1)
    if not (np.array_equal(row, rows) and np.array_equal(copy, copies if file.copies else np.full_like(copies, BASE))):
        raise IntegrityError(f"'{path}' is damaged", "a sample is not the row and copy that it should be")


def _next(batches: Any) -> tuple[np.ndarray, ...] | None:
    """The next batch; None after the last."""
    while True:
        alive = batches.is_alive()
        try:
            item = batches.output_queue.get(timeout=0.5 if alive else 0)
        except queue.Empty:
            if alive:
                continue
            raise RealMixError(
                f"FFCV stopped reading '{batches.loader.fname}'",
                "its thread died; what it said is above",
                "the zarr format holds the same pixels",
            ) from None
        return None if item is None else item[1]


def _end(batches: Any) -> None:
    """End FFCV's reading thread."""
    batches.iter_ixes = iter(())  # no batch after the current one
    batches.close()
    while batches.is_alive():  # it may be waiting for space in its queue
        with contextlib.suppress(queue.Empty):
            batches.output_queue.get_nowait()
        batches.join(0.01)


def _asked_order(samples: int) -> Any:
    """An order whose `samples` may be set before each epoch, so that one compiled Loader serves every read."""
    beton.import_ffcv()
    from ffcv.traversal_order.base import TraversalOrder

    class Asked(TraversalOrder):
        def __init__(self) -> None:  # FFCV's wants the loader, which calls this instance with itself instead
            self.samples = np.arange(samples, dtype=np.uint64)

        def __call__(self, loader: object) -> Asked:
            return self

        def sample_order(self, epoch: int) -> np.ndarray:
            return self.samples

    return Asked()
