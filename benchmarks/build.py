"""How long the copies take, end to end: ours against the ways a user has today, on the same images in one run.

Every contestant turns the same decoded images into augmented copies on disk, in a process of its own, in rounds (A B C,
A B C …), so that a machine whose speed drifts slows all of them. Prints a Markdown table: median [min–max] of the
rounds, bytes per copy, peak memory, and each rate as a ratio to ours.

    python benchmarks/build.py --images stores/cifar10      # base images of any dataset store, or an .npy file
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
WORKERS = 2
Contestant = Callable[[np.ndarray, int, Path], None]


def ours(images: np.ndarray, copies: int, folder: Path) -> None:
    """The whole of `realmix-data build` once the source is decoded: a complete, checksummed, fsynced store."""
    from pipeline.building.build import build
    from pipeline.recipes import load_recipe
    from pipeline.sources import Part, Source

    labels = np.arange(len(images)) % 10
    source = Source(
        name="benchmark",
        train=Part(images, labels),
        test=Part(images[:10], labels[:10]),
        origin={"kind": "benchmark"},
        class_names=[str(i) for i in range(10)],
        weak={"flip": True, "shift": 4},
    )
    recipe = load_recipe("cutout", dict(source.weak), images.shape[1:3])
    build(folder / "store", source, recipe, copies=copies, workers=WORKERS)


def limit(images: np.ndarray, copies: int, folder: Path) -> None:
    """The arithmetic alone: draw, fill and zstd in two threads, nothing written."""
    from concurrent.futures import ThreadPoolExecutor

    from pipeline.recipes import load_recipe
    from stores.format.compression import compress

    recipe = load_recipe("cutout", {"flip": True, "shift": 4}, images.shape[1:3])

    together = max(1, min(64, (10 << 20) // (copies * images[0].nbytes)))

    def block(start: int) -> int:
        rows = np.arange(start, min(start + together, len(images)))
        out = np.empty((len(rows), copies, *images.shape[1:]), np.uint8)
        recipe.apply(images[rows], recipe.draw(1, rows, copies, images.shape[1:3]), out)
        return len(compress(out))

    with ThreadPoolExecutor(WORKERS) as pool:
        total = sum(pool.map(block, range(0, len(images), together)))
    assert total


class CoarseDropoutCopies:
    """What a user of albumentations writes: an indexed dataset of (copy, label)."""

    def __init__(self, images: np.ndarray, copies: int) -> None:
        self.images, self.copies = images, copies

    def __len__(self) -> int:
        return len(self.images) * self.copies

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if not hasattr(self, "transform"):
            import albumentations as A

            half = self.images.shape[1] // 2
            self.transform = A.CoarseDropout(
                num_holes_range=(1, 1), hole_height_range=(half, half), hole_width_range=(half, half), fill=127, p=1
            )
        image = self.transform(image=self.images[index // self.copies])["image"]
        return np.ascontiguousarray(image), index // self.copies


def albumentations_ffcv(images: np.ndarray, copies: int, folder: Path) -> None:
    """albumentations' CoarseDropout in the two worker processes of FFCV's DatasetWriter, pixels stored raw."""
    from ffcv.fields import IntField, NDArrayField
    from ffcv.writer import DatasetWriter

    fields = {"image": NDArrayField(shape=images.shape[1:], dtype=np.dtype("uint8")), "row": IntField()}
    writer = DatasetWriter(str(folder / "copies.beton"), fields, num_workers=WORKERS)
    writer.from_indexed_dataset(CoarseDropoutCopies(images, copies), chunksize=500)


def _draw_share(task: tuple[np.ndarray, int, str]) -> None:
    images, copies, path = task
    dataset = CoarseDropoutCopies(images, copies)
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (len(dataset), *images.shape[1:]))
    for index in range(len(dataset)):
        out[index] = dataset[index][0]
    out.flush()


def albumentations_npy(images: np.ndarray, copies: int, folder: Path) -> None:
    """albumentations in two processes, each filling its own memory-mapped .npy file."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    parts = [(part, copies, str(folder / f"{i}.npy")) for i, part in enumerate(np.array_split(images, WORKERS))]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("fork")) as pool:
        list(pool.map(_draw_share, parts))


def numpy_npy(images: np.ndarray, copies: int, folder: Path) -> None:
    """A careful NumPy user: slice assignment into a memory-mapped .npy file, no labels, checksums or metadata."""
    rng = np.random.default_rng(0)
    side = images.shape[1]
    out = np.lib.format.open_memmap(
        str(folder / "copies.npy"), "w+", np.uint8, (len(images), copies, *images.shape[1:])
    )
    for i, image in enumerate(images):
        out[i] = image
        for j, (y, x) in enumerate(rng.integers(0, side, (copies, 2))):
            out[i, j, max(y - side // 4, 0) : y + side // 4, max(x - side // 4, 0) : x + side // 4] = 127
    out.flush()


# with the share of the images that each gets (slow ones need fewer) and what it imports
CONTESTANTS: dict[str, tuple[Contestant, float, tuple[str, ...]]] = {
    "realmix": (ours, 1.0, ("zarr", "zstandard", "pipeline.building.build")),
    "draw + zstd alone (the limit)": (limit, 1.0, ("zstandard", "pipeline.recipes")),
    "NumPy slices → .npy": (numpy_npy, 0.1, ()),
    "albumentations, 2 processes → .npy": (albumentations_npy, 0.04, ("albumentations",)),
    "albumentations + FFCV DatasetWriter, 2 workers": (albumentations_ffcv, 0.04, ("albumentations", "ffcv.writer")),
}


def run_one(name: str, images: np.ndarray, copies: int) -> dict[str, float]:
    """Run a contestant here: copies/s, bytes per copy on disk, peak memory in MB of it and of its children."""
    make, share, needs = CONTESTANTS[name]
    for module in needs:  # imported by everybody before the clock starts
        importlib.import_module(module)
    images = images[: max(256, int(share * len(images)))]
    folder = Path(tempfile.mkdtemp(prefix="bench-build-"))
    try:
        began, before = time.perf_counter(), processor_time()
        make(images, copies, folder)
        seconds, spent = time.perf_counter() - began, processor_time() - before
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    finally:
        shutil.rmtree(folder)
    count = len(images) * copies
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1000
    facts = {"rate": count / seconds, "seconds": seconds, "bytes": size / count, "peak_mb": peak, "copies": count}
    return facts | {"spent": spent / count}


def processor_time() -> float:
    """CPU seconds of this process and of its children that have ended; whatever else the machine does."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def load(path: str | None, side: int = 32) -> np.ndarray:
    """Images uint8 [N, H, W, 3] of a store or an .npy file.

    Without either, synthetic ones: 10,000 smooth ones of 32 × 32, or 256 of another size with photographs' spectrum.
    """
    if path is None and side != 32:
        from pipeline.building.sample import drawn

        return drawn(256, side)
    if path is None:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:32, :32] / 32
        waves = sum(
            np.sin(
                2
                * np.pi
                * (
                    rng.uniform(-f, f, (10_000, 1, 1, 3)) * x[..., None]
                    + rng.uniform(-f, f, (10_000, 1, 1, 3)) * y[..., None]
                )
                + rng.uniform(0, 7, (10_000, 1, 1, 3))
            )
            / f
            for f in (1, 2, 4)
        )
        return np.clip(127 + 50 * waves + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)
    if path.endswith(".npy"):
        return np.load(path)
    from stores import DatasetStore, open_store

    store = open_store(path)
    return (store if isinstance(store, DatasetStore) else store.dataset).train_images.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="dataset store or .npy file; default: synthetic images")
    parser.add_argument("--size", type=int, default=32, help="side of the synthetic images")
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="run one contestant once and print JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run_one(options.only, load(options.images, options.size), options.copies)))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for round_ in range(options.rounds):
        for name in CONTESTANTS:
            words = [sys.executable, __file__, "--only", name, "--copies", str(options.copies)]
            words += ["--size", str(options.size)]
            words += ["--images", options.images] if options.images else []
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {round_ + 1}: {name}: {results[name][-1]['rate']:,.0f} copies/s", file=sys.stderr)
    best = statistics.median(r["rate"] for r in results["realmix"])
    print(f"\n{os.cpu_count()} processors, {options.copies} copies of each image, {options.rounds} rounds\n")
    print(
        "| | copies | copies/s, median [min–max] | CPU µs a copy | bytes on disk a copy | peak MB | realmix is |\n"
        + "|---" * 7
        + "|"
    )
    for name, runs in results.items():
        rates = [r["rate"] for r in runs]
        middle, bytes_ = statistics.median(rates), f"{runs[0]['bytes']:,.0f}" if runs[0]["bytes"] else "–"
        peak = max(r["peak_mb"] for r in runs)
        print(
            f"| {name} | {runs[0]['copies']:,.0f} | {middle:,.0f} [{min(rates):,.0f}–{max(rates):,.0f}] "
            f"| {1e6 * statistics.median(r['spent'] for r in runs):,.1f} | {bytes_} "
            f"| {peak:,.0f} | {best / middle:.1f} × |"
        )


if __name__ == "__main__":
    main()
