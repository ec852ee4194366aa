"""`make soak`: the long half of the fault injection. Prints what was done, and stops at the first surprise.

Usage: soak.py [--kills N] [--every N] [--attacks N] [--machines N]

    kills      kill -9 of a real build at random moments; the next run must finish with the same bytes
    every      flip every N-th byte, and cut at every eighth of those, of every file of a small store
    attacks    seeded mutations whose checksums all fit
    machines   runs of the state machine over build, kill, split, damage, verify and repair
"""

from __future__ import annotations

import argparse
import random
import signal
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

from pipeline.build import build
from pipeline.protocols import Request
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from pipeline.split_stores import write_all
from stores.verify import verify

PROGRAM = Path(sys.executable).with_name("realmix-data")


def say(what: str, done: int, of: int, began: float) -> None:
    left = (time.monotonic() - began) / max(done, 1) * (of - done)
    end = "\n" if done == of else "\r"
    print(f"{what}: {done:,} of {of:,}, {left:.0f} s left   ", end=end, flush=True, file=sys.stderr)


def kills(folder: Path, count: int) -> Counter[str]:
    rng = random.Random(1)
    pixels = np.random.default_rng(0).integers(0, 256, (14400, 4, 4, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    np.savez(folder / "noise.npz", images=pixels, labels=np.arange(14400) % 5)

    def command(root: str) -> list[str]:
        line = f"build arrays noise.npz --copies 50 --workers 1 --labels 50 --quiet --root {root}"
        return [str(PROGRAM), *line.split()]

    began = time.monotonic()
    process = subprocess.Popen(command("whole"), cwd=folder, stdout=subprocess.DEVNULL)
    while not (folder / "whole/noise/zarr.json").exists():
        assert process.poll() is None, "the build failed"
        time.sleep(0.001)
    first = time.monotonic() - began
    assert process.wait() == 0
    last = time.monotonic() - began
    whole = bytes_of(folder / "whole")
    seen, began = Counter[str](), time.monotonic()
    for kill in range(count):
        root = folder / f"killed{kill}"
        while True:  # a kill that comes too late is no kill
            process = subprocess.Popen(command(root.name), cwd=folder, stdout=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.9 * first, last))
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                break
            seen["too late"] += 1
            remove(root)
        seen["kills"] += 1
        seen[f"killed {moment(root / 'noise')}"] += 1
        again = subprocess.run(command(root.name), cwd=folder, stdout=subprocess.DEVNULL, check=False)
        assert again.returncode == 0, f"kill {kill}: not continued"
        assert bytes_of(root) == whole, f"kill {kill}: other bytes"
        assert verify(root / "noise") == verify(root / "noise_50") == []
        remove(root)
        say("kills", kill + 1, count, began)
    return seen


def moment(store: Path) -> str:
    """How far a killed build had come."""
    if not (store / "zarr.json").exists():
        return "before the store had a manifest"
    if b'"complete": true' in (store / "zarr.json").read_bytes():
        return "after the store was complete"
    if list(store.glob("copies/images/c/*")):
        return "in the copies"
    return "in the base images"


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def remove(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def small(folder: Path, images: int, side: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)

    def part(count: int) -> Part:
        return Part(rng.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count) % 2)

    source = Source(
        name="arrays", train=part(images), test=part(2), class_names=["a", "b"], weak={"flip": True, "shift": 1},
        origin={"kind": "soak"},
    )  # fmt: skip
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
    for name, default in (("kills", 100), ("every", 1), ("attacks", 2000), ("machines", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    parts = {
        "kill -9 of a build": lambda folder: kills(folder, asked.kills),
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
