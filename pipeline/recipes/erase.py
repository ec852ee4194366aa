"""Random erasing as RealMix's published script configures it: with probability .3 a random rectangle of a random grey.

Area S ~ U(.02, .4) of the image and ratio r ~ U(.3, 1/.3) (uniform, not log-uniform) give w = ⌊√(S/r)⌋ and
h = ⌊√(S·r)⌋; the corner is uniform over the pixels; all four are drawn again until the rectangle lies inside. That
script drew once for the whole data set; here every copy of every image is drawn for itself, which is what it meant.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.recipes.boxes import apply_boxes
from pipeline.recipes.recipe import Recipe, number, pair
from stores.copies import COLUMNS, VERSION
from stores.draws import below, key, philox, unit
from stores.errors import StoreError, UsageError

ATTEMPTS = 10_000  # a rectangle of the published ranges fits after a few


def make_spec() -> dict:
    """Probability, range of the area (share of the image) and of the ratio height : width."""
    return {
        "kind": "erase",
        "name": "erase",
        "version": VERSION,
        "p": 0.3,
        "area": [0.02, 0.4],
        "ratio": [0.3, 1 / 0.3],
    }


def make_recipe(spec: dict) -> Recipe:
    """The recipe of a spec."""
    number(spec, "p", 0, 1), pair(spec, "area", 1e-6, 1), pair(spec, "ratio", 1e-3, 1e3)

    def draw(seed: int, rows: np.ndarray, copies: int, size: tuple[int, int]) -> np.ndarray:
        return _draw(key(seed, spec["name"]), rows, copies, size, spec)

    return Recipe(spec["name"], spec, COLUMNS["erase"], True, draw, partial(apply_boxes, spec))


def box_size(area: np.ndarray | float, ratio: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """(w, h) in pixels of area S in pixels and ratio r.

    >>> [int(side) for side in box_size(204.8, 0.5)]
    [20, 10]
    """
    return np.floor(np.sqrt(area / ratio)).astype(np.int64), np.floor(np.sqrt(area * ratio)).astype(np.int64)


def check_size(size: tuple[int, int], spec: dict) -> None:
    """Refuse images so narrow that no rectangle of the spec lies inside."""
    (height, width), (low, high) = size, spec["ratio"]
    smallest = spec["area"][0] * height * width
    # h ≤ H needs S·r < (H+1)², w ≤ W needs S/r < (W+1)²: some ratio between must allow both.
    if max(low, smallest / (width + 1) ** 2) >= min(high, (height + 1) ** 2 / smallest):
        raise UsageError(
            f"images of {height}×{width} are too narrow for the recipe 'erase'",
            "none of its rectangles lies inside",
            "choose --recipe cutout",
        )


def _draw(stream: int, rows: np.ndarray, copies: int, size: tuple[int, int], spec: dict) -> np.ndarray:
    """int32 [n, copies, 5]: a box and its grey; all zeros where nothing is erased."""
    assert copies >= 1, "at least one copy"
    (height, width), (smallest, largest), (low, high) = size, spec["area"], spec["ratio"]
    params = np.zeros((len(rows), copies, 5), np.int32)
    words = philox(stream, np.asarray(rows)[:, None], np.arange(copies))
    image, copy = np.nonzero(unit(words[0]) < spec["p"])
    params[image, copy, 4] = below(words[1][image, copy], 256)
    attempt = 0
    while len(image):
        attempt += 1
        if attempt > ATTEMPTS:
            raise StoreError("the recipe 'erase' finds no rectangle that fits", "its spec is damaged or not realmix's")
        words = philox(stream, np.asarray(rows)[image], copy, attempt)
        area = (smallest + (largest - smallest) * unit(words[0])) * height * width
        w, h = box_size(area, low + (high - low) * unit(words[1]))
        left, top = below(words[2], width), below(words[3], height)
        fits = (left + w <= width) & (top + h <= height)
        box = np.stack([top, top + h, left, left + w], axis=-1)
        params[image[fits], copy[fits], :4] = box[fits]
        image, copy = image[~fits], copy[~fits]
    return params
