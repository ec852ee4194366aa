"""A reproduced table as Markdown and CSV, with notes on its scale, the order of methods, and the masks."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from stores.system.text import csv_cell, visible
from stores.system.text import markdown as plain
from trainer.reproduce.plan import Planned
from trainer.reproduce.recipe import ERRORS, UNVERIFIED, Recipe, mean_and_std
from trainer.runs.run_dir import open_run

PRINTED = "published in "
NOT_VERIFIED = f"{UNVERIFIED}: not verified against the paper."
Name = Callable[[object], str]
Runs = Mapping[tuple[str, str], Sequence[Planned]]
KINDS = {
    "last": "of the last step",
    "median20": "median of the last 20 evaluations",
    "best_by_valid": "of the step with the best validation error",
    "valid": "of the last step",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        errors: of the finished runs in per cent, in the order of their seeds.
        seeds: of these runs.
        published: the published error, "mean ± std" or "", with " ?" if it was not verified.
        store: name of the split store.
        masks: counts of the out-of-distribution mask over all runs ("masked", "masked_ood", "ood", "rows"), or None.
        elsewhere: as `published`, by the names of other papers.
        open_set: what the runs say of foreign test images, see `trainer.evaluation.open_set`.
    """

    errors: tuple[float, ...]
    seeds: tuple[int, ...]
    published: str
    store: str
    masks: Mapping[str, int] | None
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    open_set: tuple[Mapping[str, Any], ...] = ()

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the runs; None for fewer than two."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def published_mean(self) -> float | None:
        return mean_and_std(self.published)[0] if self.published else None

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        return f"{self.mean:.2f}" + (f" ± {self.std:.2f}" if self.std is not None else "")


VARIED = {
    "both": "seeds, each of another labelled split and another training run",
    "split": "labelled splits, each trained on once with the same seed",
    "training": "training runs on the same labelled split",
}
FIXED = {"both": "", "split": "the same training seed", "training": "one labelled split"}
Cells = Mapping[tuple[str, str], Cell]


def cells(recipe: Recipe, runs: Runs) -> dict[tuple[str, str], Cell]:
    """The cells of a table, from its finished runs."""
    found = {}
    for row in recipe.rows:
        for column, store in row.stores.items():
            finished = [run for run in runs[row.name, column] if run.finished]
            results = [(result, run.seed) for run in finished if (result := open_run(run.path).result()) is not None]
            name = ERRORS[recipe.error]
            scored = [(result[name], seed) for result, seed in results if result.get(name) is not None]
            counts = [result["ood"] for result, _ in results if result["ood"]]
            names = ("masked", "masked_ood", "ood", "rows")
            masks = {name: sum(one[name] for one in counts) for name in names} if counts else None
            errors, seeds = tuple(error for error, _ in scored), tuple(seed for _, seed in scored)
            elsewhere = {paper: values[column] for paper, values in row.elsewhere.items() if values[column]}
            told = tuple(result["open_set"] for result, _ in results if result.get("open_set"))
            found[row.name, column] = Cell(errors, seeds, row.published[column], store, masks, elsewhere, told)
    return found


def lines(recipe: Recipe, found: Cells) -> list[list[str]]:
    """Header and rows as text: for each row the measured errors and, if there are any, those that papers print."""
    axis = f"error in %, by {recipe.axis}" if recipe.axis else "error in %"
    rows = [[axis, *recipe.columns]]
    for row in recipe.rows:
        own = {column: found[row.name, column] for column in row.stores}
        rows.append([row.name, *(str(own[column]) if column in own else "" for column in recipe.columns)])
        printed = {"published": {column: cell.published for column, cell in own.items()}}
        for paper in row.elsewhere:
            printed[f"{PRINTED}{paper}"] = {column: cell.elsewhere.get(paper, "") for column, cell in own.items()}
        for label, errors in printed.items():
            if any(errors.values()):
                rows.append([label, *(errors.get(column, "") for column in recipe.columns)])
    return rows


def is_printed(row: Sequence[str]) -> bool:
    """Whether a row of `lines` holds what a paper prints."""
    return row[0] == "published" or row[0].startswith(PRINTED)


def markdown(recipe: Recipe, paper: Recipe, found: Cells, config: Mapping[str, Any] | None) -> str:
    """The Markdown page of a table.

    Args:
        recipe: with the user's changes.
        paper: as in its file.
        found: the cells.
        config: config.json of one of the runs.
    """
    header, *rows = lines(recipe, found)
    out = [f"# {plain(recipe.title)}", "", caption(recipe, paper, found, config, plain), ""]
    out += [f"| {' | '.join(map(plain, header))} |", "|---" * len(header) + "|"]
    for row in rows:
        text = [f"*{plain(cell)}*" if cell and is_printed(row) else plain(cell) for cell in row]
        out.append(f"| {' | '.join(text)} |")
    published = any(cell.published for cell in found.values())
    source = ["Published: " * published + plain(recipe.source)] if recipe.source else []
    for part in (order(recipe, found, plain), masks(found, plain), source, unverified(found)):
        out += ["", *part] if part else []
    return "\n".join(out) + "\n"


def caption(
    recipe: Recipe, paper: Recipe, found: Cells, config: Mapping[str, Any] | None, named: Name = visible
) -> str:
    """What the numbers are, and how the scale differs from the recipe's; `named` escapes names."""
    counts = {len(cell.errors) for cell in found.values()}
    seeds = f"{min(counts)} to {max(counts)} seeds" if len(counts) > 1 else _plural(max(counts, default=0), "seed")
    run = config["run"] if config else None
    batch = f" of {run['batch']}" if run else ""
    sides = config["store"].get("image_size") if config else None  # runs of early versions do not say it
    size = ", images of {} × {}".format(*sides) if sides else ""
    text = (
        f"{'Validation' if recipe.error == 'valid' else 'Test'} error in %, {KINDS[recipe.error]}, averaged weights; "
        f"± is the standard deviation over {VARIED[recipe.vary]}. "
        f"{named(recipe.model)}, {recipe.steps:,} steps{batch}{size}, {seeds}."
    )
    smaller = [
        f"{recipe.steps:,} steps instead of {paper.steps:,}" if recipe.steps != paper.steps else "",
        f"{named(recipe.model)} instead of {named(paper.model)}" if recipe.model != paper.model else "",
        f"batches of {run['batch']} instead of 64" if run and run["batch"] != 64 and not paper.settings else "",
        f"{max(counts, default=0)} of {len(paper.seeds)} seeds"
        if 0 < max(counts, default=0) < len(paper.seeds)
        else "",
        FIXED[recipe.vary] if paper.vary == "both" and max(counts, default=0) > 1 else "",
    ]
    if any(smaller):
        strong = "**" if named is plain else ""
        said = ", ".join(part for part in smaller if part)
        text += f" {strong}Scaled down: {said}.{strong} Compare methods, not levels."
    return text


def order(recipe: Recipe, found: Cells, named: Name = visible) -> list[str]:
    """How many pairs of methods are in the published order in each column, and which are reversed."""
    agree, reversed_ = 0, []
    for column in recipe.columns:
        rows = [(row.name, found[row.name, column]) for row in recipe.rows if (row.name, column) in found]
        known = [(name, cell) for name, cell in rows if cell.mean is not None and cell.published_mean is not None]
        for (name, one), (other, two) in combinations(known, 2):
            assert one.mean is not None and two.mean is not None
            assert one.published_mean is not None and two.published_mean is not None
            expected, measured = one.published_mean - two.published_mean, one.mean - two.mean
            if expected * measured > 0:
                agree += 1
            elif expected:
                better, worse = map(named, (name, other) if expected < 0 else (other, name))
                reversed_.append(
                    f"{named(column)}: {better} is ahead of {worse} in the paper, here behind by {abs(measured):.2f}"
                )
    if not agree and not reversed_:
        return []
    text = f"Published order: {agree} of {agree + len(reversed_)} pairs of methods are in it."
    return [text, *(f"- {one}" for one in reversed_)]


def unverified(found: Cells) -> list[str]:
    """What the mark after a published error means, if one has it."""
    printed = [text for cell in found.values() for text in (cell.published, *cell.elsewhere.values())]
    return [NOT_VERIFIED] if any(text.endswith(UNVERIFIED) for text in printed) else []


def masks(found: Cells, named: Name = visible) -> list[str]:
    """Precision and recall of each out-of-distribution mask."""
    out = []
    for (row, column), cell in found.items():
        if not cell.masks or not cell.masks["masked"]:
            continue
        total = cell.masks
        text = f"- {named(row)}, {named(column)}: masked {total['masked'] / total['rows']:.2f} of the unlabelled rows"
        if total["ood"]:
            precision, recall = total["masked_ood"] / total["masked"], total["masked_ood"] / total["ood"]
            text += f", {total['ood'] / total['rows']:.2f} are foreign: precision {precision:.2f}, recall {recall:.2f}"
        out.append(text)
    return ["Masks:", "", *out] if out else []


def as_csv(recipe: Recipe, found: Cells) -> str:
    """The table as CSV, with a line for each cell."""
    lines: list[tuple[Any, ...]] = [tuple(_CSV.split())]
    for (row, column), cell in found.items():
        mean, std = ("" if value is None else f"{value:.4f}" for value in (cell.mean, cell.std))
        seeds, errors = " ".join(map(str, cell.seeds)), " ".join(f"{error:.4f}" for error in cell.errors)
        run = (recipe.model, recipe.steps, recipe.error)
        elsewhere = "; ".join(f"{paper}: {text}" for paper, text in cell.elsewhere.items())
        lines.append(
            (
                recipe.name,
                row,
                column,
                cell.store,
                *run,
                mean,
                std,
                recipe.vary,
                seeds,
                errors,
                cell.published,
                elsewhere,
            )
        )
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(csv_cell, line) for line in lines)
    return out.getvalue()


_CSV = "recipe row column store model steps error mean std vary seeds errors published elsewhere"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
