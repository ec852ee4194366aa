"""Builds the stores of `conftest.tiny` by the real pipeline, for tests that need one of another kind."""

from __future__ import annotations

from pathlib import Path

COPIES = 5


def build_stores(
    root: Path, source, recipe_name: str = "cutout", copies: int = COPIES, seed: int = 1, copies_format: str = "zarr"
) -> Path:
    """Build root/tiny and the split store root/tiny_20; returns root/tiny."""
    from pipeline.building.build import build
    from pipeline.recipes import load_recipe
    from pipeline.splits.protocols import Request
    from pipeline.splits.split_stores import write_all

    recipe = load_recipe(recipe_name, source.weak, source.train.images.shape[1:3])
    store, _ = build(root / "tiny", source, recipe, copies=copies, seed=seed, workers=2, copies_format=copies_format)
    write_all(store, [Request(labels=20)])
    return root / "tiny"
