"""What a table of errors does not say where some test images are foreign: a second table, from the same runs.

For each method the AUROC of foreign test images and the balanced accuracy over K + 1 classes, by its own heads where it
has some (`trainer.evaluation.open_set`), and what it gains over the labels alone: over the recipe's row of `probe` or
`supervised`, on the same store and seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from stores.system.text import markdown as plain
from trainer.reproduce.gain import gain
from trainer.reproduce.recipe import Recipe, Row
from trainer.reproduce.table import Cell, is_printed

MEASURES = {"auroc": "AUROC of foreign test images, %", "balanced": "balanced accuracy over K + 1 classes, %"}
GAIN = "gain over the labels alone, points"
SAID = (
    "Of the averaged weights at the last step, with images of all other classes among the test images. Scores and "
    "rejections are those of a method's own heads (OpenMatch, IOMatch), else 1 − the largest probability and its 95 % "
    "quantile over validation images. Rejecting everything has a balanced accuracy of 1 / (K + 1)."
)
ALONE = ("probe", "supervised")


def lines(recipe: Recipe, found: Mapping[tuple[str, str], Cell]) -> list[list[str]]:
    """Header and rows as text; [] where no run has seen foreign test images."""
    measured = any(cell.open_set for cell in found.values())
    if not measured:
        return []
    alone = next((row for method in ALONE for row in recipe.rows if row.method == method and not row.settings), None)
    rows = [["foreign test images", *recipe.columns]]
    for row in recipe.rows:
        for name, said in MEASURES.items():
            own = {column: _spread(found[row.name, column], name) for column in row.stores}
            printed = {column: text for column, text in row.open_set.get(name, {}).items() if column in row.stores}
            if any(own.values()) or any(printed.values()):
                own = {column: text or "–" for column, text in own.items()}
                rows.append([f"{row.name}, {said}", *(own.get(column, "") for column in recipe.columns)])
            if any(printed.values()):
                rows.append(["published", *(printed.get(column, "") for column in recipe.columns)])
        if alone is not None and row is not alone:
            gains = {column: _gain(found, alone, row, column) for column in row.stores}
            if any(gains.values()):
                rows.append([f"{row.name}, {GAIN}", *(gains.get(column, "") for column in recipe.columns)])
    return rows


def markdown(recipe: Recipe, found: Mapping[tuple[str, str], Cell]) -> str:
    """The table as Markdown, with what it is; "" where there is none."""
    header, *rows = lines(recipe, found) or [[]]
    if not header:
        return ""
    out = ["", SAID, "", f"| {' | '.join(map(plain, header))} |", "|---" * len(header) + "|"]
    for row in rows:
        text = [f"*{plain(cell)}*" if cell and is_printed(row) else plain(cell) for cell in row]
        out.append(f"| {' | '.join(text)} |")
    return "\n".join(out) + "\n"


def _spread(cell: Cell, name: str) -> str:
    """Mean ± standard deviation over the runs, in per cent; "" where none has the measure."""
    values = [100 * one[name] for one in cell.open_set if one[name] is not None]
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _gain(found: Mapping[tuple[str, str], Cell], alone: Row, row: Row, column: str) -> str:
    if column not in alone.stores or alone.stores[column] != row.stores[column]:
        return ""
    over = gain(found[alone.name, column], found[row.name, column])
    return "" if over is None else str(over)
