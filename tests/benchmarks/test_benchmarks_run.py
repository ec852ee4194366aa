"""The benchmarks run, on a few small images, and print their tables. What they measure here means nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8))
    return path


def table(script: str, *words: object) -> dict[str, list[str]]:
    """The first table that a benchmark prints: each line's cells by its first one."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words), "--rounds", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout[done.stdout.index("|---") :].split("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}


def number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))


def test_reading(images):
    readers = ["memcpy", "realmix, images", "realmix, stream", "FFCV RANDOM", "a batch at a time", "random chunks"]
    words = ["--images", images, "--copies", 2, "--batch", 32, "--workers", 1, "--epochs", 1]
    rows = table("reading.py", *words, "--readers", *readers)
    assert len(rows) == len(readers)
    for cells in rows.values():
        assert cells[0] == "600"
        assert all(number(cell) > 0 for cell in (cells[1], cells[4], cells[5], *cells[7:9])), cells
        assert number(cells[3]) >= 0 and number(cells[6]) >= 0, "too little to be measured"
    pairs = {row: number(cells[9]) for row, cells in rows.items()}
    assert pairs["memcpy in order (limit)"] == 32, "every image beside its only sibling"
    assert pairs["realmix, images and boxes"] < 10, "shuffled: 3.4 of 64 × 63 / 2 pairs on average"


def test_step(images):
    words = ["--images", images, "--side", 8, "--model", "wrn-10-1", "--batch", 4, "--threads", 1, "--steps", 2]
    rows = table("step.py", *words, "--engines", "eager")
    ours = rows.pop("realmix, eager fp32")
    assert number(ours[1]) > 0
    assert [row.split(",")[0] for row in rows][:1] == ["the limit"]
    assert number(rows["the limit, eager fp32"][1]) == 1


def test_policies(images):
    words = ["--images", images, "--side", 8, "--model", "wrn-10-1", "--batch", 4, "--threads", 1, "--steps", 1]
    rows = table("policies.py", *words)
    assert len(rows) == 5
    assert all(number(cells[0]) > 0 for cells in rows.values())
    assert all(0 < number(cells[2]) < 100 for name, cells in rows.items() if "torchvision" not in name)


def test_scaling(images):
    words = ["--images", images, "--side", 8, "--threads", 1, "--steps", 2]
    rows = table("scaling.py", *words, "--batches", 4, "--copies", 2, "--pools", 300)
    assert rows["base"][:3] == ["4", "2", "300"]
    assert number(rows["base"][4]) == 1
    assert number(rows["base"][3]) > 0
