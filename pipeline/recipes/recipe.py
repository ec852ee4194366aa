"""What a recipe is: how the copies of an image are drawn, and how a drawn copy is made.

Drawing and making are apart: `draw` says what every copy will be (a few integers, stored beside the pixels), `apply`
makes the pixels from the base image and those integers alone. So any copy can be derived again, shown and checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[int, np.ndarray, int, tuple[int, int]], np.ndarray]
Apply = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Recipe:
    """One way of making copies.

    Args:
        name: "cutout", "erase", …, or the stem of the file that it was read from.
        spec: JSON-able and complete; `from_spec(spec)` makes the same recipe in another process or year.
        columns: what the P parameters of a copy mean, e.g. ("top", "bottom", "left", "right").
        vectorised: NumPy only, mostly without the interpreter lock: run it in threads. Otherwise in worker processes.
        draw: (seed, rows int64 [n], copies A, (H, W)) → int32 [n, A, P]. Counter-based on (seed, recipe, row of the
            store, copy): the first copies of many are the copies of few.
        apply: (images uint8 [n, H, W, 3], params int [n, A, P], out uint8 [n, A, H, W, 3], C-contiguous) → fills `out`;
            a pure function of images and params.
    """

    name: str
    spec: dict
    columns: tuple[str, ...]
    vectorised: bool
    draw: Draw
    apply: Apply
