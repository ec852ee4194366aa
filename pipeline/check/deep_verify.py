"""`verify --deep`: draw the parameters of every copy again, make every copy again, and compare with the stored ones.

This proves that a store is what its manifest says: base images and labels by the fingerprint, parameters by the seed,
copies by their parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline.building.derive import layout_of_copies, recipe_of
from pipeline.building.executors import local
from pipeline.check.verify_ffcv import check_betons
from stores import DatasetStore, open_store
from stores.format import layout
from stores.identity import dataset_fingerprint
from stores.system import process


def check_copies(store: DatasetStore, progress: Callable[[str, int, int], None]) -> list[str]:
    """Check all copies of a store.

    Args:
        store: a dataset store.
        progress: called with (what, images done, total).

    Returns:
        What differs, with the rows; empty if nothing does.

    Raises:
        IntegrityError: a file is damaged, so that nothing can be compared.
    """
    problems = []
    found: dict[int, list[str]] = {}
    if dataset_fingerprint(store) != store.fingerprint:
        problems.append("train/, test/: the images, labels or order are not those of the fingerprint")
    store.train_files, store.test_files  # noqa: B018 (reading them raises if their number is not the images')
    files = layout.load(store.path, "copies/params").num_files  # as many as of copies

    def finished(index: int, wrong: list[str]) -> None:
        found[index] = wrong
        done = min(len(found) * -(-store.num_images // files), store.num_images)
        progress("copies derived again", done, store.num_images)

    with local(recipe_of(store), process.cores()) as pool:
        pool.run(partial(check_file, str(store.path)), range(files), finished)
    problems += [problem for index in sorted(found) for problem in found[index]]
    return problems + (check_betons(store, progress) if "ffcv" in store.manifest else [])


def check_file(path: str, index: int) -> list[str]:
    """What differs in the `index`-th file of copies and of params; a task of `check_copies`."""
    store = open_store(path)
    assert isinstance(store, DatasetStore)
    recipe = recipe_of(store)
    array = layout_of_copies(store)
    problems = []
    start, stop = array.rows(index)
    scratch = np.empty((array.chunk[0], *array.shape[1:]), np.uint8)
    for first in range(start, stop, array.chunk[0]):
        rows = np.arange(first, min(first + array.chunk[0], stop))
        params = recipe.draw(store.manifest["spec"]["seed"], rows, store.num_copies, store.image_size)
        stored = store.read_params(rows)
        if (wrong := np.argwhere((params != stored).any(-1))).size:
            problems.append(f"copies/params: row {rows[wrong[0, 0]]}, copy {wrong[0, 1]} is not what the seed draws")
        if not store.has_zarr_copies:  # `verify_ffcv` compares the copies
            continue
        block = scratch[: len(rows)]
        recipe.apply(store.train_images.read(rows, workers=1), params, block)
        assert store.copies is not None
        pixels = store.copies.read(rows, workers=1)
        if (wrong := np.argwhere((block != pixels).any((2, 3, 4)))).size:
            row, copy = rows[wrong[0, 0]], wrong[0, 1]
            problems.append(
                f"copies/images: row {row}, copy {copy} (and {len(wrong) - 1} more) is not what the seed makes of it"
            )
    return problems
