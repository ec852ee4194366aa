"""How a method's accuracy changes with the columns of a sweep, such as the share of foreign images (arXiv:2503.00884).

R    slope of the least-squares line
GM   Σ |accuracy − mean|
WAD  the smallest slope between neighbours
BAD  the largest
P    share of these slopes that are not negative
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stores.system.text import markdown as plain
from trainer.reproduce.recipe import Recipe
from trainer.reproduce.table import Cell

NAMES = ("R", "GM", "WAD", "BAD", "P")


def measures(at: Sequence[float], accuracy: Sequence[float]) -> dict[str, float]:
    """The five numbers above.

    Args:
        at: places of the columns, ascending, two or more.
        accuracy: in [0, 1], one for each.
    """
    x, y = np.asarray(at, np.float64), np.asarray(accuracy, np.float64)
    slopes = np.diff(y) / np.diff(x)
    return {
        "R": float(np.polyfit(x, y, 1)[0]),
        "GM": float(np.abs(y - y.mean()).sum()),
        "WAD": float(slopes.min()),
        "BAD": float(slopes.max()),
        "P": float((slopes >= 0).mean()),
    }


def lines(recipe: Recipe, found: Mapping[tuple[str, str], Cell]) -> list[list[str]]:
    """Header and rows as text, of the methods that have all columns; [] where the recipe is no sweep or none has."""
    if not recipe.sweep or len(recipe.columns) < 2:
        return []
    rows = []
    for row in recipe.rows:
        means = [found[row.name, column].mean for column in recipe.columns if (row.name, column) in found]
        known = [mean for mean in means if mean is not None]
        if len(known) == len(recipe.columns):
            said = measures([float(column) for column in recipe.columns], [1 - mean / 100 for mean in known])
            rows.append([row.name, *(f"{said[name]:.3f}" for name in NAMES)])
    return [["accuracy over the columns", *NAMES], *rows] if rows else []


def markdown(recipe: Recipe, found: Mapping[tuple[str, str], Cell]) -> str:
    """The table as Markdown, with what it is; "" where there is none."""
    table = lines(recipe, found)
    if not table:
        return ""
    said = (
        "R: slope of the accuracy; GM: Σ |accuracy − mean|; WAD, BAD: smallest and largest slope between neighbours; "
    )
    out = ["", f"{said}P: share of those that are not negative.", ""]
    out += [f"| {' | '.join(table[0])} |", "|---" * len(table[0]) + "|"]
    out += [f"| {' | '.join(map(plain, row))} |" for row in table[1:]]
    return "\n".join(out) + "\n"
