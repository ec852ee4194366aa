"""Making one file of copies and the file of its params from the base images, the seed and the recipe.

Build and repair both use it, so they give the same bytes. Nothing here writes.
"""

from __future__ import annotations

import threading

import numpy as np

from pipeline.recipes import Recipe, from_spec
from stores import DatasetStore
from stores.errors import StoreError
from stores.format import layout
from stores.format.shards import Encoder, encode


def recipe_of(store: DatasetStore) -> Recipe:
    """The recipe of a store's copies.

    Raises:
        StoreError: it is unknown, or its params are not the columns in the manifest.
    """
    recipe = from_spec(store.manifest["spec"]["recipe"])
    if list(recipe.columns) != store.manifest["recipe_columns"]:
        raise StoreError(
            f"the manifest of '{store.path}' is damaged", "its recipe does not have the params that it lists"
        )
    return recipe


def layout_of_copies(store: DatasetStore) -> layout.ArrayLayout:
    """The layout of a store's copies; if they are in FFCV's file, the one that fits the files of their params."""
    if store.has_zarr_copies or not store.manifest["complete"]:
        return layout.load(store.path, "copies/images")
    rows = layout.load(store.path, "copies/params").file[0]
    shape = (store.num_images, store.num_copies, *store.image_size)
    made = [layout.copies("copies/images", *shape, largest) for largest in layout.CHUNKS_OF_LARGE_IMAGES]
    return next((array for array in made if array.file[0] == rows), made[0])


_THREAD = threading.local()


def _scratch(shape: tuple[int, ...]) -> np.ndarray:
    """This thread's buffer for one raw chunk, kept between files, because new pages cost as much as filling them."""
    if getattr(_THREAD, "chunk", None) is None or _THREAD.chunk.shape != shape:
        _THREAD.chunk = np.empty(shape, np.uint8)
    return _THREAD.chunk


def copies_file(store: DatasetStore, recipe: Recipe, index: int) -> tuple[bytes, bytes]:
    """Draw, make and encode the `index`-th file of copies; one raw chunk is in memory at a time.

    Returns:
        The bytes of the files of `copies/params` and of `copies/images`.

    Raises:
        IntegrityError: the base images that it needs are damaged.
    """
    drawn, pixels = layout.load(store.path, "copies/params"), layout_of_copies(store)
    start, stop = pixels.rows(index)
    rows = np.arange(start, stop)
    base = store.train_images.read(rows, workers=1)
    params = recipe.draw(store.manifest["spec"]["seed"], rows, store.num_copies, store.image_size)
    encoder = Encoder(pixels, index)
    scratch = _scratch((pixels.chunk[0], *pixels.shape[1:]))
    for first, last in encoder.row_blocks():
        block = scratch[: last - first]
        recipe.apply(base[first - start : last - start], params[first - start : last - start], block)
        encoder.add(block)
    return encode(drawn, index, params), encoder.finish()
