"""`verify --deep` of a store's FFCV files.

Every image and copy in them, read with FFCV's own Loader, is compared with the zarr array it was written from, or,
where the store keeps no array of copies, with the copy derived again from its image and params.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline.building.derive import recipe_of
from pipeline.building.executors import local
from pipeline.building.export_ffcv import block_rows, copies_of
from stores import DatasetStore, open_store
from stores.ffcv.beton import COPIES, TRAIN
from stores.system import process


def check_betons(store: DatasetStore, progress: Callable[[str, int, int], None]) -> list[str]:
    """Check the FFCV files of a store.

    Args:
        store: a dataset store.
        progress: called with (what, images done, total).

    Returns:
        What differs, with the rows; empty if nothing does.

    Raises:
        IntegrityError: a file is damaged.
        UsageError: FFCV is not installed.
    """
    step, problems = block_rows(store), list[str]()
    betons = {TRAIN: store.beton(base=True)} | ({COPIES: store.beton()} if store.num_copies else {})

    def compare(block: int, expected: dict[str, np.ndarray]) -> None:
        rows = np.arange(block * step, min((block + 1) * step, store.num_images))
        for name, pixels in expected.items():
            wrong = (betons[name].read(rows) != pixels).any((-1, -2, -3)).reshape(len(rows), -1)
            if wrong.any():
                row, copy = np.argwhere(wrong)[0]
                of = f", copy {copy}" if name == COPIES else ""
                problems.append(f"{name}: row {rows[row]}{of} (and {wrong.sum() - 1} more) is not the store's")
        progress("ffcv compared", int(rows[-1]) + 1, store.num_images)

    with local(recipe_of(store), process.cores()) as pool:
        pool.run(partial(_expected, str(store.path), step), range(-(-store.num_images // step)), compare)
    return problems


def _expected(path: str, step: int, block: int) -> dict[str, np.ndarray]:
    """The pixels that each beton must have in a block of rows."""
    store = open_store(path)
    assert isinstance(store, DatasetStore)
    rows = np.arange(block * step, min((block + 1) * step, store.num_images))
    base = {TRAIN: store.train_images.read(rows, workers=1)}
    return base | ({COPIES: copies_of(store, rows)} if store.num_copies else {})
