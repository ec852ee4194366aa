"""Building a dataset store: base images first, then each file of copies as an independent task.

    source ──▶ train/images, test/images, labels      threads of this process
    train/images ──▶ draw ──▶ apply ──▶ zstd ──▶ copies/images, copies/params      any concurrent.futures.Executor

A task needs only the store's location and a file number, so it gives the same bytes in a thread, a process or on
another machine. Finished files are journaled; an interrupted build continues and gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.building.cluster import cluster
from pipeline.building.derive import copies_file, recipe_of
from pipeline.building.executors import Pool, local, threads
from pipeline.building.export_ffcv import replace_copies
from pipeline.building.plan import require_room
from pipeline.recipes import Recipe
from pipeline.sources import Part, Source
from stores import DatasetStore, open_store
from stores.draws import order
from stores.errors import IntegrityError
from stores.ffcv.beton import COPIES, betons, require_ffcv, require_local, require_space
from stores.format import file_names, layout
from stores.format.journal import Record
from stores.format.shards import encode
from stores.identity import dataset_fingerprint
from stores.storage.location import Location
from stores.system import process
from stores.writer import Target, open_target, write_file, write_table

Progress = Callable[[str, int, int], None]  # (what, done, of)


def build(
    path: Location,
    source: Source,
    recipe: Recipe,
    *,
    copies: int,
    seed: int = 1,
    workers: int | None = None,
    dask: str | None = None,
    force: bool = False,
    copies_format: str = "zarr",
    check_space: bool = True,
    progress: Progress | None = None,
) -> tuple[DatasetStore, bool]:
    """Build a dataset store, continue an interrupted build, or find the store already built.

    Args:
        path: location of the store.
        source: the images.
        recipe: makes the copies.
        copies: stored copies of every training image, at least 1.
        seed: of the order of the images and of every draw.
        workers: threads (vectorised recipes) or processes (others); None: the number of processors.
        dask: address of a Dask scheduler, whose workers make the copies instead of this machine.
        force: replace a store of another specification.
        copies_format: "zarr", or "ffcv" to keep the copies in FFCV's files instead; the fingerprint is the same.
        check_space: refuse to begin a build that will not fit on the disk.
        progress: called with (what, images or copies done, total).

    Returns:
        The complete store, and whether anything was written.

    Raises:
        ResourceError: it would not fit on the disk; nothing is changed.
        StoreError: `path` holds something else, or another build is running there.
        IntegrityError: an image of the source is broken; what this call created is removed.
        UsageError: an option or the source cannot be used; what this call created is removed.
    """
    assert copies >= 1
    workers = workers or process.cores()
    report = progress or (lambda *_: None)
    content = _manifest(source, recipe, copies, seed)
    if copies_format == "ffcv":
        require_ffcv()
        require_space(require_local(path), betons(content["num_images"], copies, content["image_size"]))
        content["copies_format"] = "ffcv"
    if check_space:
        require_room(path, source, recipe, content["spec"])
    with open_target(path, content, force=force) as target:
        if target is None:
            return _dataset(path), False
        with cluster(dask, path.absolute()) if dask else local(recipe, workers) as pool:
            try:
                _write_base(target, source, order(seed, "order", len(source.train.labels)), workers, report)
            except IntegrityError:
                if source.examine is not None:
                    source.examine(report)
                raise
            if COPIES not in target.done:
                _write_copies(target, recipe, copies, pool, report)
        more = replace_copies(target, report) if copies_format == "ffcv" else {}
        target.finish(dataset_fingerprint(_dataset(path, incomplete=True)), **more)
    return _dataset(path), True


def _manifest(source: Source, recipe: Recipe, copies: int, seed: int) -> dict[str, Any]:
    count, height, width, _ = source.train.images.shape
    return {
        "spec": {"source": source.origin, "recipe": recipe.spec, "copies": copies, "seed": seed},
        "source": source.name,
        "protocol": source.protocol,
        "class_names": list(source.class_names),
        "weak": dict(source.weak),
        "num_images": count,
        "num_test": len(source.test.labels),
        "image_size": [height, width],
        "num_copies": copies,
        "recipe_columns": list(recipe.columns),
    }


def _write_base(target: Target, source: Source, rows: np.ndarray, workers: int, report: Progress) -> None:
    """Write labels and base images in a fixed random order, so that a chunk does not hold images of one class only."""
    row_of = np.empty_like(rows)
    row_of[rows] = np.arange(len(rows))
    tables = {"train/labels": source.train.labels[rows], "train/source_index": rows, "test/labels": source.test.labels}
    if source.folds is not None:
        tables["folds"] = row_of[source.folds]
    for name, table in tables.items():
        target.record(write_table(target.path, name, table.astype(np.int64)))
    if source.train.files is not None and source.test.files is not None:
        in_order = [source.train.files[row] for row in rows.tolist()]
        for name, files in ((file_names.TRAIN, in_order), (file_names.TEST, source.test.files)):
            target.record(write_table(target.path, name, file_names.packed(files)))
    _write_images(target, "train/images", source.train, rows, workers, report)
    _write_images(target, "test/images", source.test, np.arange(len(source.test.labels)), workers, report)


def _write_images(target: Target, name: str, part: Part, rows: np.ndarray, workers: int, report: Progress) -> None:
    """Write the images `rows` of one part of the source, in that order."""
    array = layout.images(name, *part.images.shape[:3]).create(target.path)

    def write(index: int) -> list[Record]:
        start, stop = array.rows(index)
        pixels = np.ascontiguousarray(part.images[rows[start:stop]])
        return [write_file(target.path, array, index, encode(array, index, pixels))]

    with threads(workers) as pool:
        _run(pool, target, array, write, lambda done: report(name, done, len(rows)))


def _write_copies(target: Target, recipe: Recipe, copies: int, pool: Pool, report: Progress) -> None:
    store = _dataset(target.path, incomplete=True)
    pixels = layout.copies("copies/images", store.num_images, copies, *store.image_size)
    pixels = pixels.create(target.path)
    layout.params("copies/params", pixels, len(recipe.columns)).create(target.path)
    total = store.num_images * copies
    task = _CopiesTask(str(target.path.absolute()))
    _run(pool, target, pixels, task, lambda done: report("copies", done * copies, total))


class _CopiesTask:
    """A picklable task: draw, make, encode and write one file of copies and the file of its params."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, index: int) -> list[Record]:
        store = _dataset(self._path, incomplete=True)
        recipe = recipe_of(store)
        params, images = copies_file(store, recipe, index)
        return [
            write_file(store.path, layout.load(store.path, "copies/params"), index, params),
            write_file(store.path, layout.load(store.path, "copies/images"), index, images),
        ]


def _run(
    pool: Pool,
    target: Target,
    array: layout.ArrayLayout,
    task: Callable[[int], list[Record]],
    report: Callable[[int], None],
) -> None:
    """Write the files of `array` that are not in the journal; stop at the first failure."""
    sizes = [stop - start for start, stop in map(array.rows, range(array.num_files))]
    missing = [index for index in range(array.num_files) if array.key(index) not in target.done]
    done = array.shape[0] - sum(sizes[index] for index in missing)
    report(done)

    def finished(index: int, records: list[Record]) -> None:
        nonlocal done
        target.record(*records)
        done += sizes[index]
        report(done)

    pool.run(task, missing, finished)


def _dataset(path: str | Location, *, incomplete: bool = False) -> DatasetStore:
    store = open_store(path, incomplete=incomplete)
    assert isinstance(store, DatasetStore)
    return store
