"""Writes embeddings of any numbers beside a dataset store, for tests that need some without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stores import open_store
from stores.embeddings import EmbeddingStore, Network, describe, fingerprint_of, layouts, location, open_embeddings
from stores.format import shards
from stores.writer import open_target, write_file


def write_embeddings(
    dataset: Path,
    name: str,
    train: np.ndarray,
    test: np.ndarray,
    copies: np.ndarray | None = None,
    strong: np.ndarray | None = None,
    network: Network | None = None,
) -> EmbeddingStore:
    """Write and open `<dataset>.<name>`; arrays as the attributes of `EmbeddingStore`, converted to float16."""
    opened = open_store(dataset)
    content = content_of(opened, train.shape[1], 0 if copies is None else copies.shape[1], strong, network)
    arrays = {"train": train, "test": test, "copies": copies, "strong": strong}
    with open_target(location(opened, name), content) as target:
        for part, array in layouts(content).items():
            array.create(target.path)
            for index in range(array.num_files):
                start, stop = array.rows(index)
                data = shards.encode(array, index, arrays[part][start:stop].astype(np.float16))
                target.record(write_file(target.path, array, index, data))
        target.finish(fingerprint_of(content))
    return open_embeddings(opened, name)


def content_of(
    dataset: Any, features: int, copies: int, strong: np.ndarray | None, network: Network | None = None
) -> dict[str, Any]:
    recipe = {"kind": "simple", "name": "simple", "version": 1, "flip": 0.5, "shift": 2}
    return describe(
        dataset,
        network or Network("timm:none", "none", "0" * 64, 32, {"mean": [0.5] * 3, "std": [0.5] * 3}, features),
        copies=copies,
        strong=None if strong is None else (recipe, strong.shape[1]),
        weak=None,
        precision="fp32",
        batch=64,
        versions={},
    )
