"""`verify --deep`: draw every copy's parameters again, make every copy again, and compare with what is stored.

Proves that a store is what its manifest says: base images and labels by the fingerprint, params by the seed, copies by
the params.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.executors import executor
from pipeline.recipes import from_spec
from stores import DatasetStore, layout, open_store
from stores.identity import dataset_fingerprint


def check_copies(store: DatasetStore, progress: Callable[[str, int, int], None]) -> list[str]:
    """Returns what differs, naming the rows; empty if nothing does.

    Raises:
        IntegrityError: a file is damaged, so that nothing can be compared.
    """
    problems = []
    if dataset_fingerprint(store) != store.fingerprint:
        problems.append("train/, test/: the images, labels or order are not those of the fingerprint")
    files = layout.load(store.path, "copies/images").num_files
    with executor(from_spec(store.manifest["spec"]["recipe"]), len(os.sched_getaffinity(0))) as pool:
        paths = [str(store.path)] * files
        for done, found in enumerate(pool.map(_check_file, paths, range(files)), 1):
            problems += found
            progress(
                "copies derived again", min(done * -(-store.num_images // files), store.num_images), store.num_images
            )
    return problems


def _check_file(path: str, index: int) -> list[str]:
    store = open_store(Path(path))
    assert isinstance(store, DatasetStore)
    assert store.copies is not None
    recipe = from_spec(store.manifest["spec"]["recipe"])
    array = store.copies.layout
    problems = []
    start, stop = array.rows(index)
    scratch = np.empty((array.chunk[0], *array.shape[1:]), np.uint8)
    for first in range(start, stop, array.chunk[0]):
        rows = np.arange(first, min(first + array.chunk[0], stop))
        params = recipe.draw(store.manifest["spec"]["seed"], rows, store.num_copies, store.image_size)
        stored = store.read_params(rows)
        if (wrong := np.argwhere((params != stored).any(-1))).size:
            problems.append(f"copies/params: row {rows[wrong[0, 0]]}, copy {wrong[0, 1]} is not what the seed draws")
        block = scratch[: len(rows)]
        recipe.apply(store.train_images.read(rows, workers=1), params, block)
        pixels = store.copies.read(rows, workers=1)
        if (wrong := np.argwhere((block != pixels).any((2, 3, 4)))).size:
            row, copy = rows[wrong[0, 0]], wrong[0, 1]
            problems.append(
                f"copies/images: row {row}, copy {copy} (and {len(wrong) - 1} more) is not what the seed makes of it"
            )
    return problems
