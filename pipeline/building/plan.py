"""Estimating a build before it begins: bytes, files, seconds and memory.

Copies of a sample are drawn, made and encoded in memory as in a build, and the figures scaled to the whole data set.
Nothing is written. The same estimate refuses a build that will not fit on the disk.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.building.facts import size
from pipeline.building.sample import Subject, of_source
from pipeline.recipes import Recipe
from pipeline.sources import Source
from stores.draws import order
from stores.errors import ResourceError, StoreError
from stores.ffcv.beton import betons
from stores.format import layout, manifest
from stores.format.shards import encode
from stores.storage.location import Location
from stores.system import process
from stores.system.text import print_table

MARGIN = 1.05  # required free space, as a multiple of the estimate
BUDGET_S = 1.0  # seconds to measure for; every worker encodes at least one chunk
CHECK_S = 0.1  # the same for `require_room`
TABLES = 3  # train/labels, train/source_index, test/labels
TABLE_ROWS = 1 << 17  # rows that the size of a table is measured on
ENTRY_BYTES = 160  # of a file's entry in the manifest
PROCESS_BYTES = 350 << 20  # memory of a worker process with albumentations


@dataclass(frozen=True)
class Plan:
    """Estimates for one build.

    Attributes:
        base_bytes: images, labels, metadata and manifest on disk.
        ffcv_bytes: FFCV's files on disk, 0 if there are none.
        seconds: with `workers` of this machine's processors, and a disk that keeps up.
        memory_bytes: peak of all processes together.
        needed_bytes: `MARGIN` × the total.
        free_bytes: free space now; None in object storage.
        fits: whether it fits on the disk; None in object storage.
        sample: description of the sample.
    """

    images: int
    test_images: int
    size: list[int]
    copies: int
    recipe: str
    workers: int
    base_bytes: int
    copies_bytes: int
    params_bytes: int
    ffcv_bytes: int
    total_bytes: int
    bytes_per_copy: float
    files: int
    seconds: float
    memory_bytes: int
    needed_bytes: int
    free_bytes: int | None
    fits: bool | None
    sample: str

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    subject: Subject,
    recipe: Recipe,
    store: Location,
    *,
    copies: int,
    seed: int = 1,
    workers: int | None = None,
    copies_format: str = "zarr",
    budget_s: float = BUDGET_S,
) -> Plan:
    """Measure on a sample and scale to the whole data set.

    Args:
        subject: the data set and its sample.
        recipe: makes the copies.
        store: location of the dataset store; need not exist.
        copies: of each training image.
        seed: of the build.
        workers: parallel workers; None: the number of processors.
        copies_format: "zarr" or "ffcv".
        budget_s: seconds to measure for; at least one chunk of copies is measured.
    """
    workers = workers or process.cores()
    images, height, width = len(subject.images), *subject.size
    scale = subject.train / images
    arrays = _arrays(subject, recipe, copies)
    file_rows, file_bytes = arrays[2].file[0], 0.0

    began = time.monotonic()
    base = len(encode(layout.images("train/images", images, height, width), 0, subject.images)) / images
    base_s = time.monotonic() - began
    hashlib.sha256(subject.images.data).digest()
    hash_s = time.monotonic() - began - base_s  # for the fingerprint, in one thread

    params = recipe.draw(seed, np.arange(images), copies, subject.size)
    drawn = layout.params("params", layout.copies("copies", images, copies, height, width), params.shape[-1])
    drawn_bytes = sum(len(encode(drawn, i, params[slice(*drawn.rows(i))])) for i in range(drawn.num_files))
    copy_bytes, copies_rate = _measure_copies(subject.images, params, recipe, workers, budget_s)
    file_bytes = file_rows * copies * copy_bytes

    files = sum(array.num_files for array in arrays) + TABLES + len(arrays) + 6
    base_bytes = (subject.train + subject.test) * base + _tables_bytes(subject, seed) + files * ENTRY_BYTES
    copies_bytes, params_bytes = subject.train * copies * copy_bytes, scale * drawn_bytes
    made = betons(subject.train, copies, subject.size) if copies_format == "ffcv" else []
    ffcv_bytes = sum(beton.bytes for beton in made)
    total = int(base_bytes + copies_bytes + params_bytes) + ffcv_bytes
    opened_s, read_s = subject.read_s
    seconds = opened_s + subject.train * copies / copies_rate
    seconds += (subject.train + subject.test) * ((read_s + base_s / images) / workers + hash_s / images)

    task = 2 * file_bytes + 2 * file_rows * (height * width * 3 + copies * params.shape[-1] * 8)
    task += 2 * arrays[2].chunk[0] * arrays[2].row_bytes
    memory = process.peak_memory() + workers * task
    memory += 0 if recipe.vectorised else workers * PROCESS_BYTES
    free, needed = free_bytes(store), int(MARGIN * total)
    return Plan(
        images=subject.train,
        test_images=subject.test,
        size=list(subject.size),
        copies=copies,
        recipe=recipe.name,
        workers=workers,
        base_bytes=int(base_bytes),
        copies_bytes=int(copies_bytes),
        params_bytes=int(params_bytes),
        ffcv_bytes=ffcv_bytes,
        total_bytes=total,
        bytes_per_copy=round(copies_bytes / (subject.train * copies), 1),
        files=files + len(made),
        seconds=round(seconds, 2),
        memory_bytes=int(memory),
        needed_bytes=needed,
        free_bytes=free,
        fits=None if free is None else free + bytes_there(store) >= needed,
        sample=subject.what,
    )


def require_room(store: Location, source: Source, recipe: Recipe, spec: dict[str, Any]) -> None:
    """Refuse a build that will not fit; files of an earlier run or of a store to be replaced count as free.

    If even uncompressed copies would fit, nothing is measured.

    Raises:
        ResourceError: less is free than `MARGIN` × the estimate.
    """
    free, there = free_bytes(store), bytes_there(store)
    if free is None or _is_built(store, spec):
        return
    copies = spec["copies"]
    image = int(np.prod(source.train.images.shape[1:]))
    rows = source.train.images.shape[0]
    raw = rows * (1 + copies) * image + len(source.test.labels) * image + rows * (24 + copies * len(recipe.columns) * 4)
    if free + there >= MARGIN * raw + (1 << 20):
        return
    subject = of_source(source, spec["seed"])
    plan = make_plan(subject, recipe, store, copies=copies, seed=spec["seed"], workers=1, budget_s=CHECK_S)
    if not plan.fits:
        raise ResourceError(
            f"the store would not fit: it takes about {size(plan.total_bytes)}, to be safe {size(plan.needed_bytes)}",
            f"{size(free)} are free in '{store.parent}'" + (f", {size(there)} are already written" if there else ""),
            "free some space, choose another --root or fewer --copies; --no-space-check builds anyway",
        )


def show(plan: Plan) -> None:
    """Print a plan as a table."""
    from rich.text import Text

    free = "not asked: object storage" if plan.free_bytes is None else size(plan.free_bytes)
    of_copies = f"{size(plan.copies_bytes)}  ({plan.bytes_per_copy:.0f} bytes each)"
    rows: dict[str, str | Text] = {
        "images": f"{plan.images:,} + {plan.test_images:,} of {'×'.join(map(str, plan.size))}",
        "copies": f"{plan.images * plan.copies:,}  ({plan.copies} of each training image, {plan.recipe})",
        "base": size(plan.base_bytes),
        "copies/images": of_copies,
        "copies/params": size(plan.params_bytes),
        **({"FFCV files": size(plan.ffcv_bytes)} if plan.ffcv_bytes else {}),
        "total": f"{size(plan.total_bytes)} in {plan.files:,} files",
        "disk": Text.assemble(
            f"{free} free, {size(plan.needed_bytes)} needed",
            ("" if plan.fits is not False else "  does not fit", "bold red"),
        ),
        "memory": f"about {size(plan.memory_bytes)}",
        "time": f"about {duration(plan.seconds)} with {plan.workers} worker{'s' * (plan.workers != 1)} here",
        "measured on": plan.sample,
    }
    print_table(rows.items())


def _arrays(subject: Subject, recipe: Recipe, copies: int) -> list[layout.ArrayLayout]:
    """The arrays that may have many files."""
    pixels = layout.copies("copies/images", subject.train, copies, *subject.size)
    return [
        layout.images("train/images", subject.train, *subject.size),
        layout.images("test/images", subject.test, *subject.size),
        pixels,
        layout.params("copies/params", pixels, len(recipe.columns)),
    ]


def _measure_copies(
    images: np.ndarray, params: np.ndarray, recipe: Recipe, workers: int, budget_s: float
) -> tuple[float, float]:
    """Make and encode copies of the sample, chunk by chunk, until the time is up.

    Returns:
        Bytes per copy, and copies per second of all workers together.
    """
    count, copies = params.shape[:2]
    rows = layout.copies("copies", count, copies, *images.shape[1:3]).chunk[0]
    starts = range(0, count, rows)
    encoded: dict[int, int] = {}  # bytes of each chunk, by its first image

    def work(worker: int) -> float:
        scratch = np.empty((rows, copies, *images.shape[1:]), np.uint8)
        recipe.apply(images[:1], params[:1], scratch[:1])  # imports and caches of the first call
        scratch.fill(0)
        made = 0
        began = time.monotonic()
        for start in itertools.islice(itertools.cycle(starts), worker % len(starts), None):
            block = scratch[: min(rows, count - start)]
            recipe.apply(images[start : start + rows], params[start : start + rows], block)
            encoded[start] = len(encode(layout.copies("copies", len(block), *scratch.shape[1:4]), 0, block))
            made += len(block) * copies
            if time.monotonic() - began > budget_s and (len(encoded) == len(starts) or not recipe.vectorised):
                break
        return made / (time.monotonic() - began)

    # recipes that hold the GIL are measured in one thread, which stands for every process
    threads = workers if recipe.vectorised else 1
    with ThreadPoolExecutor(threads) as pool:
        rate = sum(pool.map(work, range(threads)))
    if not recipe.vectorised:
        rate *= min(workers, process.cores())
    made = sum(min(rows, count - start) for start in encoded) * copies
    return sum(encoded.values()) / made, rate


def _tables_bytes(subject: Subject, seed: int) -> float:
    """Bytes of the source order as it will be, and of labels of ten classes in random order."""
    rows = order(seed, "order", subject.train)[:TABLE_ROWS]
    found = len(encode(layout.table("train/source_index", rows), 0, rows)) * subject.train / len(rows)
    labels = rows % 10
    each = len(encode(layout.table("train/labels", labels), 0, labels)) / len(labels)
    return found + each * (subject.train + subject.test)


def _is_built(store: Location, spec: dict[str, Any]) -> bool:
    try:
        content = manifest.read(store)
    except StoreError:
        return False
    return bool(content.get("spec") == spec)


def bytes_there(store: Location) -> int:
    """Bytes of the files that are already there."""
    if not isinstance(store, Path) or not store.is_dir():
        return 0
    return sum(file.lstat().st_size for file in store.rglob("*") if file.is_file())


def free_bytes(store: Location) -> int | None:
    """Free bytes at the location of the store; None in object storage."""
    if not isinstance(store, Path):
        return None
    folder = next(place for place in store.absolute().parents if place.is_dir())
    return shutil.disk_usage(folder).free


def duration(seconds: float) -> str:
    """A time with its unit: "40 s", "12 min", "3.1 h"."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
