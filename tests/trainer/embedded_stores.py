"""Embeddings of the session's tiny store that say which image and which copy they are of, and those of clusters."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from tiny_embeddings import write_embeddings

from stores import open_store

FEATURES, COPIES, STRONG = 6, 3, 2


def numbered(tiny: Path) -> None:
    """Write embeddings `numbered`: feature 0 is the image's row, feature 1 the kind · 100 + the number of the copy.

    The kinds are 0 (train, test), 1 (copies), 2 (strong); the other features are noise. `few` lacks strong copies,
    `plain` all.
    """
    store, rng = open_store(tiny), np.random.default_rng(3)
    rows, tests = store.num_images, store.manifest["num_test"]

    def made(count: int, kind: int, *copies: int) -> np.ndarray:
        values = rng.normal(size=(count, *copies, FEATURES)).round(2)
        values[..., 0] = np.arange(count).reshape(-1, *[1] * len(copies))
        values[..., 1] = 100 * kind + (np.arange(copies[0]) if copies else 0)
        return values

    train, test = made(rows, 0), made(tests, 0)
    copies, strong = made(rows, 1, COPIES), made(rows, 2, STRONG)
    write_embeddings(tiny, "numbered", train, test, copies, strong)
    write_embeddings(tiny, "few", train, test, copies)
    write_embeddings(tiny, "plain", train, test)


def clusters(tiny: Path, features: int = 16, apart: float = 1.5, labels: np.ndarray | None = None) -> None:
    """Write embeddings `clusters`: a normal distribution around a centre for each class; `labels`: of the images."""
    store, rng = open_store(tiny), np.random.default_rng(4)
    truth = store.train_labels if labels is None else labels
    centres = apart * rng.normal(size=(len(store.class_names), features))
    train, test = (centres[y] + rng.normal(size=(len(y), features)) for y in (truth, store.test_labels))
    copies = train[:, None] + 0.3 * rng.normal(size=(len(train), 4, features))
    write_embeddings(tiny, "clusters", train, test, copies)


def copied(tiny: Path, folder: Path) -> Path:
    """A private copy of the tiny stores, with all of these embeddings; the path of the dataset store."""
    shutil.copytree(tiny.parent, folder)
    path = folder / tiny.name
    numbered(path)
    clusters(path)
    return path
