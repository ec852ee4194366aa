"""A training step against the batch, the stored copies and the size of the pool: it should grow with the first alone.

A small network, so that what the feed and the engine do shows. One thing is varied at a time; every case is a process
of its own, in rounds. Prints a Markdown table: milliseconds a step, and of the feed's work in its thread.

    python benchmarks/scaling.py --images stores/cifar10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import rounds
import torch
from build import load
from corpus import build_stores, shrink
from training import assemble, clock, time_prepare, trained

WARM_UP = 3


def cases(options: argparse.Namespace) -> dict[str, tuple[int, int, int]]:
    """Batch, copies and images of the pool of each case; the first is what the others are compared with."""
    batches, copies, pools = (
        [int(n) for n in text.split(",")] for text in (options.batches, options.copies, options.pools)
    )
    base = (batches[-1], copies[(len(copies) - 1) // 2], pools[len(pools) // 2])
    varied = {"base": base}
    varied |= {f"batch {n}": (n, *base[1:]) for n in batches}
    varied |= {f"copies {n}": (base[0], n, base[2]) for n in copies}
    varied |= {f"pool {n}": (*base[:2], n) for n in pools}
    return {name: case for name, case in varied.items() if name == "base" or case != base}


def measure(name: str, options: argparse.Namespace) -> rounds.Result:
    """Time one case here, in this process."""
    batch, copies, pool = cases(options)[name]
    torch.set_num_threads(options.threads)
    split = options.cache / str(pool) / "split"
    parts = assemble(split, options.model, batch, "eager", "fp32", options.threads, copies)
    with contextlib.closing(trained(parts)) as steps:
        result = clock(steps, WARM_UP, options.steps)
    result["prepare"] = time_prepare(parts)
    return result | {"note": f"{1000 * result['seconds']:.1f} ms a step"}


def compare(options: argparse.Namespace) -> None:
    """Build a store for each size of the pool, run the rounds, print the table."""
    images, varied = shrink(load(options.images), options.side), cases(options)
    for pool in sorted({case[2] for case in varied.values()}):
        held = max(case[1] for case in varied.values() if case[2] == pool)
        labels = max(10, min(250, pool // 2) // 10 * 10)
        build_stores(np.resize(images, (pool, *images.shape[1:])), held, options.cache / str(pool), labels)
    words = rounds.words(options, "model", "threads", "steps", "cache", "batches", "copies", "pools")
    results = rounds.run(__file__, varied, options.rounds, words)
    print(
        f"\n{rounds.machine(('torch', 'numpy'))}. {options.model}, images of {images.shape[1:]}, eager fp32, "
        f"{options.threads} threads, {options.rounds} rounds of {options.steps} steps."
    )
    lines = []
    for name, runs in results.items():
        times, prepared = ([1000 * run[key] for run in runs] for key in ("seconds", "prepare"))
        lines.append(
            [
                name,
                *(f"{n:,}" for n in varied[name]),
                rounds.spread(times, 1),
                rounds.ratio(runs, results["base"], "seconds"),
                rounds.spread(prepared, 2),
            ]
        )
    columns = ["", "batch", "copies", "images", "ms a step, median [min–max]", "× base", "feed's thread, ms a step"]
    rounds.table(columns, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="dataset store or .npy file, repeated if few; default: synthetic images")
    parser.add_argument("--batches", default="16,32,64")
    parser.add_argument("--copies", default="1,10,25,50")
    parser.add_argument("--pools", default="1000,10000,50000")
    parser.add_argument("--side", type=int, default=32, help="pixels cut out of each image, and their side")
    parser.add_argument("--model", default="wrn-10-1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50, help="timed steps of a round")
    parser.add_argument("--only", help="run one case once, from a prepared --cache, and print JSON")
    parser.add_argument("--cache", type=Path, help="folder with the prepared stores, of --only")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-scaling-") as folder:
        options.cache = Path(folder)
        compare(options)


if __name__ == "__main__":
    main()
