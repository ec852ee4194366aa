"""How fast a folder of JPEG photographs becomes base images, against libjpeg-turbo with the same resize, and FFCV.

Every contestant turns the same files into images of `--size` pixels by as many threads or processes, in rounds (A B C,
A B C …). libjpeg-turbo is called as bare as Python can: read, decode, Lanczos, one file after the other in each thread;
at full size, and at the smaller scale that ours decodes at. Prints Markdown.

    python benchmarks/decoding.py photos/ --size 224
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps
from rounds import machine, ratio, say, spread, table

from pipeline.sources.folder import ImageFiles
from pipeline.sources.scan import scan
from stores.images import picture, walk

BARE = "libjpeg-turbo at full size + resize"


def bare(files: list[str], size: int, workers: int, *, reduced: bool) -> None:
    """Read, decode and resize, without EXIF."""

    def one(file: str) -> np.ndarray:
        data = Path(file).read_bytes()
        height, width = picture.size(data)
        least, scale = int(picture.REDUCED * size), 1
        while reduced and scale < 8 and min(height, width) >= 2 * scale * least:
            scale *= 2
        sides = {} if scale == 1 else {"min_height": -(-min(height, width) // scale), "min_width": 1}
        image = Image.fromarray(simplejpeg.decode_jpeg(data, **sides))
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, files):
            pass


def ours(files: list[str], size: int, workers: int) -> None:
    """EXIF, checks and all, as `build folder` does it after the scan."""
    ImageFiles(files, (size, size), workers, None).read(np.arange(len(files)))


def scanned(files: list[str], size: int, workers: int) -> None:
    """The same with the scan before: header and SHA-256 of every file."""
    scan([("train", Path(files[0]).parent, files)], lambda *_: None)
    ours(files, size, workers)


class Photographs:
    """An indexed dataset of Pillow images, as FFCV's guide has it."""

    def __init__(self, files: list[str], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image = Image.open(self.files[index]).convert("RGB")
        return ImageOps.fit(image, (self.size, self.size), Image.Resampling.LANCZOS), 0


def ffcv(files: list[str], size: int, workers: int) -> None:
    """FFCV's DatasetWriter with an RGBField, pixels raw."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    folder = Path(tempfile.mkdtemp(prefix="bench-decode-"))
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(folder / "photos.beton"), fields, num_workers=workers)
    writer.from_indexed_dataset(Photographs(files, size), chunksize=16)
    shutil.rmtree(folder)


CONTESTANTS: dict[str, Callable[..., None]] = {
    BARE: lambda *given: bare(*given, reduced=False),
    "libjpeg-turbo at our scale + resize": lambda *given: bare(*given, reduced=True),
    "realmix: decode, EXIF, resize": ours,
    "realmix: scan too": scanned,
    "FFCV DatasetWriter (Pillow, RGB raw)": ffcv,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of JPEGs, at any depth")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = walk.files_below(options.photos.absolute()).files
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for round_ in range(options.rounds + 1):
        for name, decode in CONTESTANTS.items():
            began = time.perf_counter()
            decode(files, options.size, options.workers)
            rate = len(files) / (time.perf_counter() - began)
            if round_:  # the first fills the system's cache
                runs[name].append({"rate": rate})
                say(f"round {round_}: {name}: {rate:,.0f} images/s")
    print(f"\n{machine(['simplejpeg', 'pillow', 'ffcv'])}; {len(files):,} files, {options.workers} workers")
    rows = [
        [name, spread(run["rate"] for run in found), ratio(found, runs[BARE], "rate")] for name, found in runs.items()
    ]
    table(["", f"images/s at {options.size}×{options.size}, median [min–max]", f"× {BARE}"], rows)


if __name__ == "__main__":
    main()
