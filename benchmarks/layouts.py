"""Which chunks and which codec: bytes, speed, and how good a shuffle a reader of bounded memory gets from them.

For each chunk shape (images × copies) and codec, one core: bytes per copy, copies encoded and decoded a second. For
each way of reading: how many different images a window of 256 MiB holds and how many pairs of siblings (two copies of
one image) a batch of 64 has on average, against a uniform draw from the whole pool. The pair counts are measured on
drawn batches. Prints two Markdown tables.

    python benchmarks/layouts.py --images stores/cifar10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from build import load
from numcodecs import Blosc, lz4, zstd

from pipeline.recipes import load_recipe
from stores.format.compression import compress

SHAPES = ((1024, 1), (256, 8), (64, 10), (64, 25), (16, 50), (64, 50))
BLOSC = Blosc("lz4hc", clevel=5, shuffle=Blosc.NOSHUFFLE, blocksize=512 << 10)
CODECS: dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[bytes, np.ndarray], object]]] = {
    "zstd, ours": (compress, zstd.decompress),
    "zstd 1": (lambda a: zstd.compress(a, 1), zstd.decompress),
    "zstd 3": (lambda a: zstd.compress(a, 3), zstd.decompress),
    "lz4": (lambda a: lz4.compress(a, 1), lz4.decompress),
    "blosc lz4hc": (BLOSC.encode, BLOSC.decode),
}
WINDOW_BYTES, BATCH, COPIES = 256 << 20, 64, 50


def codecs(images: np.ndarray, rounds: int) -> None:
    """Print the table of chunk shapes and codecs; best of `rounds`, CPU seconds of this process."""
    recipe = load_recipe("cutout", {"flip": True, "shift": 4}, images.shape[1:3])
    print(f"| bytes a copy · encode k/s · decode k/s | {' | '.join(CODECS)} |\n|---|{'---|' * len(CODECS)}")
    for rows, copies in SHAPES:
        chunk = np.empty((rows, copies, *images.shape[1:]), np.uint8)
        recipe.apply(images[:rows], recipe.draw(1, np.arange(rows), copies, images.shape[1:3]), chunk)
        cells = []
        for encode, decode in CODECS.values():
            data, out, count = encode(chunk), np.empty_like(chunk), rows * copies
            spent = [(seconds(encode, chunk), seconds(decode, data, out)) for _ in range(rounds)]
            assert (out == chunk).all()
            rate = [count / min(column) / 1000 for column in zip(*spent, strict=True)]
            cells.append(f"{len(data) / count:,.0f} · {rate[0]:,.0f} · {rate[1]:,.0f}")
        print(f"| ({rows}, {copies}) | {' | '.join(cells)} |", flush=True)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    began = time.process_time()
    work(*arguments)
    return time.process_time() - began


def shuffles(num_images: int, image_bytes: int) -> None:
    """Print the table of ways to read a pool of `num_images` × 50 copies in random order."""
    rng = np.random.default_rng(0)
    held = WINDOW_BYTES // image_bytes

    def figures(rows: int, copies: int, chunks: int, batches: int) -> tuple[int, float]:
        """Different images and sibling pairs a batch of a window of random chunks, mean over `batches` windows."""
        blocks, layers = num_images // rows, COPIES // copies
        distinct, pairs = 0, 0
        for _ in range(batches):
            chunk = rng.choice(blocks * layers, min(chunks, blocks * layers), replace=False)
            drawn = rng.choice(len(chunk) * rows * copies, BATCH, replace=False)
            image = chunk[drawn // (rows * copies)] // layers * rows + drawn // copies % rows
            counts = np.unique(image, return_counts=True)[1]
            distinct += len(np.unique(chunk // layers)) * rows
            pairs += (counts * (counts - 1) // 2).sum()
        return distinct // batches, pairs / batches

    print("\n| reading | different images at hand | sibling pairs in a batch of 64 |\n|---|---|---|")
    whole = figures(1, COPIES, num_images, 100)
    print(f"| decoded once, in memory or in a mapped file (any chunk shape) | {whole[0]:,} | {whole[1]:.2f} |")
    for rows, copies in SHAPES:
        distinct, pairs = figures(rows, copies, max(1, held // (rows * copies)), 2000)
        print(f"| window of 256 MiB, chunks of ({rows}, {copies}) | {distinct:,} | {pairs:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="dataset store or .npy file; default: 10,000 synthetic images")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    images = load(options.images)
    codecs(images, options.rounds)
    shuffles(len(images), int(np.prod(images.shape[1:])))


if __name__ == "__main__":
    main()
