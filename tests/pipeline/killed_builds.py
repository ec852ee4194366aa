"""Script of test_build: kill -9 a build before and after every single write, continue it, compare every byte.

Usage: killed_builds.py FOLDER. Prints the number of kills. Forks, so it must not be imported by a process with threads.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from pipeline.building.build import build
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from stores.format import manifest
from stores.system import aside

rng = np.random.default_rng(0)


def part(count: int) -> Part:
    return Part(rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8), np.arange(count) % 3)


SOURCE = Source(
    name="arrays",
    train=part(90),
    test=part(9),
    class_names=["a", "b", "c"],
    weak={"flip": True, "shift": 1},
    origin={"kind": "test"},
)


def run(path: Path) -> None:
    recipe = load_recipe("cutout", SOURCE.weak, (12, 12))
    build(path, SOURCE, recipe, copies=3, seed=4, workers=1)


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def killed_at(path: Path, write: int, when: str) -> bool:
    """Build in a child that kills itself around its `write`-th write; False if it finished before that."""
    child = os.fork()
    if child == 0:
        plain, count = manifest.write_atomically, 0

        def deadly(target: Path, data: bytes) -> None:
            nonlocal count
            count += 1
            if count == write and when == "torn":
                aside.named(target).write_bytes(data[: len(data) // 2])
            if count == write and when != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            plain(target, data)
            if count == write:
                os.kill(os.getpid(), signal.SIGKILL)

        manifest.write_atomically = deadly
        run(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def main() -> None:
    folder = Path(sys.argv[1])
    run(folder / "whole")
    expected = bytes_of(folder / "whole")
    kills = 0
    for when in ("before", "torn", "after"):
        write = 0
        while True:
            write += 1
            path = folder / f"{when}{write}"
            if not killed_at(path, write, when):
                break
            kills += 1
            run(path)
            got = bytes_of(path)
            assert got.keys() == expected.keys(), (when, write, got.keys() ^ expected.keys())
            assert got == expected, (when, write, [k for k in got if got[k] != expected[k]])
    print(kills)


if __name__ == "__main__":
    main()
