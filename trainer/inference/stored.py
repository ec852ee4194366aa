"""The images of a store, for `predict`: the pool of a split store, or all training images of a dataset store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stores import SplitStore, open_store

BLOCK_BYTES = 64 << 20  # of pixels read at a time


class Stored(NamedTuple):
    """An image of a store.

    Attributes:
        name: the file that it came from, or "row 7" if the store does not know.
        pixels: uint8 [H, W, 3].
    """

    name: str
    pixels: np.ndarray


def is_store(path: Path) -> bool:
    """Whether a store, of either kind, is there."""
    return (path / "zarr.json").is_file()


def images_of(path: Path) -> tuple[int, Iterator[Stored]]:
    """How many images a store has for `predict`, and the images, read as they are asked for.

    Raises:
        StoreError, IntegrityError: it cannot be read.
    """
    store = open_store(path)
    dataset = store.dataset if isinstance(store, SplitStore) else store
    rows = np.sort(store.unlabeled) if isinstance(store, SplitStore) else np.arange(dataset.num_images)
    files, array = dataset.train_files, dataset.train_images
    step = max(1, BLOCK_BYTES // array.layout.row_bytes)

    def images() -> Iterator[Stored]:
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            for row, pixels in zip(block.tolist(), array.read(block), strict=True):
                yield Stored(f"row {row}" if files is None else files[row], pixels)

    return len(rows), images()
