"""Which chunks and which codec: bytes, speed, and how good a shuffle a reader of bounded memory gets from them.

For each chunk shape (images × copies) and codec, one core: bytes per copy, copies encoded and decoded a second. For
each way of reading: how many different images a window of 256 MiB holds and how many pairs of siblings (two copies of
one image) a batch of 64 has on average, against a uniform draw from the whole pool. The pair counts are measured on
drawn batches. A third table, in the store's own chunks, is of zstd's parameters: window, hash table, shortest match,
literals coded or not, long-distance matching. Prints Markdown.

    python benchmarks/layouts.py --images stores/cifar10
    python benchmarks/layouts.py --size 224
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from build import load
from numcodecs import Blosc, lz4, zstd

from pipeline.recipes import load_recipe
from stores.format import layout
from stores.format.compression import compress

SHAPES = ((1024, 1), (256, 8), (64, 10), (64, 25), (16, 50), (64, 50))
LARGE_SHAPES = ((64, 1), (8, 8), (4, 10), (2, 25), (1, 25), (1, 50))  # of images of more than 59×59
WINDOWS, TABLES, SHORTEST = range(19, 26), (12, 14, 16, 17, 18), (5, 6, 7)
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
    print(f"| bytes a copy · encode k/s · decode k/s | {' | '.join(CODECS)} |\n|---|{'---|' * len(CODECS)}")
    for rows, copies in shapes(images):
        chunk = copies_of(images, 0, rows, copies)
        cells = [measured(encode, decode, [chunk], rounds) for encode, decode in CODECS.values()]
        print(f"| ({rows}, {copies}) | {' | '.join(cells)} |", flush=True)


def parameters(images: np.ndarray, rounds: int, chunks: int) -> None:
    """Print the table of zstd's parameters, on some chunks as a store has them; the same figures as `codecs`."""
    import zstandard

    shape = layout.copies("copies/images", len(images), COPIES, *images.shape[1:3]).chunk
    starts = np.linspace(0, len(images) - shape[0], chunks).astype(int)
    stacks = [copies_of(images, start, *shape[:2]) for start in starts]
    print(f"\n| zstd's parameters, chunks of {shape[:2]} | bytes a copy · encode k/s · decode k/s |\n|---|---|")
    print(f"| a store's | {measured(compress, zstd.decompress, stacks, rounds)} |", flush=True)

    def row(said: str, **changed: int | bool) -> None:
        of = {"hash_log": 17, "window_log": 23, "min_match": 5, "target_length": 0, **changed}
        asked = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, chain_log=10, search_log=1, write_content_size=True, **of
        )
        compressor = zstandard.ZstdCompressor(compression_params=asked)
        encode = lambda chunk: compressor.compress(chunk.data)  # noqa: E731
        print(f"| {said} | {measured(encode, zstd.decompress, stacks, rounds)} |", flush=True)

    before = {"window_log": 19, "hash_log": 12, "min_match": 6, "target_length": 1}
    row("window 2^19, hash table 2^12, matches from 6 bytes, raw literals", **before)
    for window in WINDOWS:
        row(f"window 2^{window}, hash table 2^17, matches from 5 bytes, coded literals", window_log=window)
    for table in TABLES:
        row(f"window 2^23, hash table 2^{table}", hash_log=table)
    for shortest in SHORTEST:
        row(f"window 2^23, matches from {shortest} bytes", min_match=shortest)
    row("window 2^23, raw literals", target_length=1)
    for table in (12, 17):
        row(f"window 2^23, hash table 2^{table}, long-distance matching", hash_log=table, enable_ldm=True)


def shapes(images: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Shapes of chunks to compare: (images, copies)."""
    return SHAPES if images[0].nbytes <= 59 * 59 * 3 else LARGE_SHAPES


def copies_of(images: np.ndarray, start: int, rows: int, copies: int) -> np.ndarray:
    """A chunk of the default recipe, uint8 [rows, copies, H, W, 3]."""
    recipe = load_recipe("cutout", {"flip": True, "shift": 4}, images.shape[1:3])
    chunk = np.empty((rows, copies, *images.shape[1:]), np.uint8)
    drawn = recipe.draw(1, np.arange(start, start + rows), copies, images.shape[1:3])
    recipe.apply(np.ascontiguousarray(images[start : start + rows]), drawn, chunk)
    return chunk


def measured(
    encode: Callable[[np.ndarray], bytes],
    decode: Callable[[bytes, np.ndarray], object],
    chunks: list[np.ndarray],
    rounds: int,
) -> str:
    """Bytes a copy, thousands of copies encoded and decoded a CPU second; best of `rounds`."""
    out, size, spent = np.empty_like(chunks[0]), 0, np.full((rounds, 2), 0.0)
    for chunk in chunks:
        data = encode(chunk)
        size += len(data)
        for took in spent:
            took += seconds(encode, chunk), seconds(decode, data, out)
        assert (out == chunk).all()
    count = sum(chunk.shape[0] * chunk.shape[1] for chunk in chunks)
    rate = count / spent.min(0) / 1000
    return f"{size / count:,.0f} · {rate[0]:,.0f} · {rate[1]:,.0f}"


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
    for rows, copies in LARGE_SHAPES if image_bytes > 59 * 59 * 3 else SHAPES:
        distinct, pairs = figures(rows, copies, max(1, held // (rows * copies)), 2000)
        print(f"| window of 256 MiB, chunks of ({rows}, {copies}) | {distinct:,} | {pairs:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="dataset store or .npy file; default: synthetic images")
    parser.add_argument("--size", type=int, default=32, help="side of the synthetic images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=8, help="chunks that zstd's parameters are compared on")
    options = parser.parse_args()
    images = load(options.images, options.size)
    codecs(images, options.rounds)
    parameters(images, options.rounds, options.chunks)
    shuffles(len(images), int(np.prod(images.shape[1:])))


if __name__ == "__main__":
    main()
