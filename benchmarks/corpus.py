"""The images of a benchmark as a store of ours, built by the real pipeline, and its split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.building.build import build
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all

CLASSES = 10


def build_stores(images: np.ndarray, copies: int, folder: Path, labels: int = 250) -> Path:
    """Build `folder/store` with CutOut copies of uint8 [N, H, W, 3], and the split `folder/split` beside it.

    Labels are 0 … 9 in turn: no benchmark asks whether anything is learnt.

    Args:
        labels: labelled images of the split, a multiple of 10.

    Returns:
        the split store's path.
    """
    classes, side = np.arange(len(images)) % CLASSES, min(images.shape[1:3])
    source = Source(
        name="benchmark",
        train=Part(images, classes),
        test=Part(images[:CLASSES], classes[:CLASSES]),
        origin={"kind": "benchmark"},
        class_names=[str(i) for i in range(CLASSES)],
        weak={"flip": True, "shift": side // 8},
    )
    recipe = load_recipe("cutout", dict(source.weak), images.shape[1:3])
    store, _ = build(folder / "store", source, recipe, copies=copies)
    write_all(store, [Request(labels=labels)], "split")
    return folder / "split"


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """The upper left `side` × `side` pixels."""
    return np.ascontiguousarray(images[:, :side, :side])
