"""A recipe: how the parameters of copies are drawn, and how copies are made from them.

`draw` draws the parameters of every copy (a few integers, stored beside the pixels), `apply` makes the pixels from the
base image and these parameters only. So any copy can be made again, shown and checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stores.errors import StoreError

Draw = Callable[[int, np.ndarray, int, tuple[int, int]], np.ndarray]
Apply = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Recipe:
    """A way of making copies.

    Args:
        name: "cutout", "erase", …, or the stem of the file it was read from.
        spec: complete description as JSON; `from_spec(spec)` makes the same recipe in another process or year.
        columns: names of the P parameters of a copy, such as ("top", "bottom", "left", "right").
        vectorised: it is NumPy that mostly releases the GIL, so run it in threads; otherwise run it in processes.
        draw: (seed, rows int64 [n], copies A, (H, W)) → int32 [n, A, P]. A function of (seed, recipe, row of the store,
            copy) for each copy, so that more copies do not change the first ones.
        apply: (images uint8 [n, H, W, 3], params int [n, A, P], out uint8 [n, A, H, W, 3], C-contiguous) fills `out`, a
            pure function of images and params.
    """

    name: str
    spec: dict
    columns: tuple[str, ...]
    vectorised: bool
    draw: Draw
    apply: Apply


def number(spec: dict, field: str, low: float, high: float) -> float:
    """A number of a spec, which must be in [low, high]; a spec comes from a manifest and may hold anything.

    >>> number({"fill": 127}, "fill", 0, 255)
    127
    """
    return checked(field, spec.get(field), low, high)


def pair(spec: dict, field: str, low: float, high: float) -> tuple[float, float]:
    """Two ascending numbers of a spec, both in [low, high]."""
    both = spec.get(field)
    if not isinstance(both, list) or len(both) != 2:
        raise StoreError(f"the recipe's '{field}' is not a pair of numbers", "its spec is damaged or not realmix's")
    first = checked(field, both[0], low, high)
    return first, checked(field, both[1], first, high)


def checked(field: str, value: object, low: float, high: float) -> float:
    """Return `value` if it is a number in [low, high]; otherwise raise a StoreError that names the field."""
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise StoreError(
        f"the recipe's '{field}' is not a number from {low:g} to {high:g}", "its spec is damaged or not realmix's"
    )
