"""`make soak`: the long half of the fault injection. Prints what was done, and stops at the first surprise.

Usage: soak.py [--kills N] [--every N] [--attacks N] [--machines N]

    kills      kill -9 of every command at random moments, so many each: see kills.py
    every      flip every N-th byte, and cut at every eighth of those, of every file of a small store
    attacks    seeded mutations whose checksums all fit
    machines   runs of the state machine over build, kill, split, damage, verify and repair
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import faults
import hostile
import numpy as np

from pipeline.building.build import build
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all


def say(what: str, done: int, of: int, began: float) -> None:
    left = (time.monotonic() - began) / max(done, 1) * (of - done)
    end = "\n" if done == of else "\r"
    print(f"{what}: {done:,} of {of:,}, {left:.0f} s left   ", end=end, flush=True, file=sys.stderr)


def kills(count: int) -> Counter[str]:
    """In a process of its own, which forks and so must have no threads."""
    if count:
        subprocess.run(
            [sys.executable, "-W", "error", Path(__file__).with_name("kills.py"), f"--kills={count}"], check=True
        )
    return Counter()


def small(folder: Path, images: int, side: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)

    def part(count: int) -> Part:
        return Part(rng.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count) % 2)

    source = Source(
        name="arrays",
        train=part(images),
        test=part(2),
        class_names=["a", "b"],
        weak={"flip": True, "shift": 1},
        origin={"kind": "soak"},
    )
    store, _ = build(folder / "tiny", source, load_recipe("cutout", source.weak, (side, side)), copies=2, workers=1)
    write_all(store, [Request(labels=2)], "tiny_20")
    return folder / "tiny", folder / "tiny_20"


def matrix(folder: Path, every: int) -> Counter[str]:
    seen = Counter[str]()
    for store, read in zip(small(folder, 6, 4), (faults.content, faults.split_content), strict=True):
        whole = read(store)
        cases = [
            fault
            for key in faults.files_of(store)
            for fault in faults.faults(store, key, lambda data, _: list(range(0, len(data), every)))
        ]
        began = time.monotonic()
        for done, fault in enumerate(cases, 1):
            seen += faults.inflict(store, fault, read, whole)
            if done % 50 == 0 or done == len(cases):
                say(f"faults of a {'split' if 'tiny_' in store.name else 'dataset'} store", done, len(cases), began)
    return seen


def attacks(folder: Path, count: int) -> Counter[str]:
    store, split = small(folder, 40, 8)
    tracemalloc.start()
    seen, began = Counter[str](), time.monotonic()
    for seed in range(count):
        seen[hostile.attack(store, split, 10_000 + seed)] += 1
        say("attacks", seed + 1, count, began)
    tracemalloc.stop()
    return seen


def machines(count: int) -> Counter[str]:
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test
    from test_state_machine import Stores

    run_state_machine_as_test(Stores, settings=settings(max_examples=count, stateful_step_count=25, deadline=None))
    return Counter({"runs": count})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 40), ("every", 1), ("attacks", 2000), ("machines", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    parts = {
        "kill -9": lambda folder: kills(asked.kills),
        "one damaged file": lambda folder: matrix(folder, asked.every) if asked.every else Counter(),
        "hostile stores": lambda folder: attacks(folder, asked.attacks),
        "state machine": lambda folder: machines(asked.machines) if asked.machines else Counter(),
    }
    for name, part in parts.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soak") as folder:
            seen = part(Path(folder))
        print(f"{name}: {time.monotonic() - began:.0f} s")
        for what, count in sorted(seen.items()):
            print(f"  {count:>7,} {what}")


if __name__ == "__main__":
    main()
