"""CutOut (DeVries & Taylor 2017): one grey square per copy, anywhere in the image, clipped at its border.

The centre is uniform over the pixels, so a square near the border is cut off and a corner keeps only a quarter of it:
for 16 of 32 pixels the mean visible area is 196 pixels, not 256. Every copy has its square.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.recipes.boxes import apply_boxes
from pipeline.recipes.recipe import Recipe, number
from stores.copies import COLUMNS, VERSION
from stores.draws import below, key, philox


def make_spec() -> dict:
    """Side as a share of the image's shorter side; mid-grey."""
    return {"kind": "cutout", "name": "cutout", "version": VERSION, "side": 0.5, "fill": 127}


def make_recipe(spec: dict) -> Recipe:
    """The recipe of a spec."""
    share, _ = number(spec, "side", 0, 2), number(spec, "fill", 0, 255)

    def draw(seed: int, rows: np.ndarray, copies: int, size: tuple[int, int]) -> np.ndarray:
        return draw_squares(key(seed, spec["name"]), rows, copies, size, share)

    return Recipe(spec["name"], spec, COLUMNS["cutout"], True, draw, partial(apply_boxes, spec))


def draw_squares(stream: int, rows: np.ndarray, copies: int, size: tuple[int, int], share: float) -> np.ndarray:
    """Clipped squares: int32 [n, copies, 4] as `stores.copies.BOX`.

    Args:
        stream: Philox key.
        rows: int64 [n], rows of the store.
        copies: number of copies of each.
        size: (H, W) in pixels.
        share: side of the square by the image's shorter side; the window of centre c and side s is
            [c − ⌊s/2⌋, c − ⌊s/2⌋ + s), clipped.
    """
    assert copies >= 1, "at least one copy"
    side = max(1, round(share * min(size)))
    words = philox(stream, np.asarray(rows)[:, None], np.arange(copies))
    boxes = np.empty((len(rows), copies, 4), np.int32)
    for axis, length in enumerate(size):
        start = below(words[axis], length) - side // 2
        np.maximum(start, 0, out=boxes[..., 2 * axis], casting="unsafe")
        np.minimum(start + side, length, out=boxes[..., 2 * axis + 1], casting="unsafe")
    return boxes
