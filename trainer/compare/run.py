"""A comparison from its plan to its table, its picture and its sentence."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.errors import RealMixError
from stores.format import manifest
from stores.system import durable
from stores.system.text import csv_cell, print_table, say, visible
from stores.system.text import markdown as plain
from trainer.compare.execute import execute
from trainer.compare.plan import uses_unlabeled
from trainer.compare.verdict import sentence
from trainer.reproduce import open_set, picture
from trainer.reproduce import table as tables
from trainer.reproduce.gain import Gain, gain
from trainer.reproduce.plan import Planned, Scale, plan
from trainer.reproduce.recipe import Recipe
from trainer.runs.run_dir import open_run

BASELINES = ("probe", "supervised")  # the first one that is compared


@dataclass(frozen=True)
class Compared:
    """A comparison's table, of the runs that are finished.

    Attributes:
        data: all of it, as its JSON file holds it.
        header, cells: as text.
        caption: what the numbers are.
        title: of the table.
        files: it is written to, as Markdown, CSV, JSON and a picture.
    """

    data: dict[str, Any]
    header: list[str]
    cells: list[list[str]]
    caption: str
    title: str
    files: list[Path]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each method and store: method, store, error and std in per cent, errors, seeds, gain, seconds."""
        return list(self.data["rows"])

    @property
    def sentences(self) -> list[str]:
        """Whether the unlabelled images of a store help, by how much and with which method; one for each store."""
        return list(self.data["sentences"])

    def show(self) -> None:
        """Print it."""
        print_table(self.cells, self.header, self.title, numbers=True)
        notes = (f"note: {note}" for note in self.data["notes"])
        for line in (self.caption, *notes, *map(str, self.files), "", *self.sentences):
            say(line)


class Comparison:
    """All runs of a comparison.

    Args:
        recipe: a row for each method, see `trainer.compare.plan.recipe`.
        paths: of the columns' stores.
        settings: "key=value" for each run whose method has the setting.
        runs: folder of the runs.
        notes: what a person should know.

    Raises:
        StoreError, UsageError: as `trainer.reproduce.plan.plan`.
    """

    def __init__(
        self, recipe: Recipe, paths: Sequence[str], settings: Sequence[str], runs: Path, notes: Sequence[str] = ()
    ) -> None:
        self.recipe, self.notes = recipe, list(notes)
        scale = Scale(stores=tuple(paths), settings=tuple(settings))
        self.cells = plan(recipe, scale, "stores", runs)

    @property
    def runs(self) -> list[Planned]:
        """All runs, seed by seed, so that a comparison that is stopped has compared something."""
        distinct = {run.path: run for cell in self.cells.values() for run in cell}
        return sorted(distinct.values(), key=lambda run: run.seed)

    def train(self, tell: Callable[[Compared], object] = lambda _: None, quiet: bool = False) -> Compared:
        """Train the missing runs, then `write`.

        Args:
            tell: called with the table, also if runs failed.
            quiet: show no progress.

        Raises:
            RealMixError: some runs failed; the others are finished and in the table.
            Interrupted: as `trainer.compare.execute.execute`.
        """
        runs = self.runs
        failures = execute(runs, quiet)
        compared = self.write()
        tell(compared)
        if failures:
            said = "\n".join(visible(f"  {one.run.path}: {one.reason.splitlines()[0]}") for one in failures)
            hint = "the same command tries them again"
            raise RealMixError(f"{len(failures)} of {len(runs)} runs failed:", said, hint)
        return compared

    def write(self) -> Compared:
        """Write the table of the finished runs as Markdown, CSV, JSON and SVG beside them."""
        found = tables.cells(self.recipe, self.cells)
        config = next((open_run(run.path).config for run in self.runs if run.finished), None)
        caption = tables.caption(self.recipe, self.recipe, found, config)
        header, rows = self._table(found)
        said = self.sentences(found)
        data = self._data(found, said)
        content = {
            "md": _markdown(self.recipe, header, rows, said, caption, self.notes)
            + open_set.markdown(self.recipe, found),
            "csv": _csv(data),
            "json": json.dumps(data, indent=1) + "\n",
            "svg": picture.draw(self.recipe, found, caption),
        }
        folder = self.runs[0].path.parent
        durable.make_folder(folder)
        files = {kind: folder / f"{self.recipe.name}.{kind}" for kind in content}
        for kind, text in content.items():
            manifest.write_atomically(files[kind], text.encode())
        return Compared(data, header, rows, caption, self.recipe.title, list(files.values()))

    @property
    def baseline(self) -> str | None:
        """The method that gains are over; None if neither of them is compared."""
        names = [row.name for row in self.recipe.rows]
        return next((name for name in BASELINES if name in names), None)

    def gains(self, found: tables.Cells) -> dict[tuple[str, str], Gain | None]:
        """What each method gains over the baseline, by (method, column)."""
        base = self.baseline
        if base is None:
            return dict.fromkeys(found)
        return {key: None if key[0] == base else gain(found[base, key[1]], cell) for key, cell in found.items()}

    def sentences(self, found: tables.Cells) -> list[str]:
        """One for each column."""
        said = []
        for column in self.recipe.columns:
            cells = {row.name: found[row.name, column] for row in self.recipe.rows}
            alone = {name: cell for name, cell in cells.items() if not uses_unlabeled(name)}
            helped = {name: cell for name, cell in cells.items() if name not in alone}
            said.append(sentence(column, alone, helped, "validation" if self.recipe.error == "valid" else "test"))
        return said

    def seconds(self, method: str) -> float | None:
        """Mean seconds of a method's finished runs, evaluations included."""
        runs = [run for (name, _), cell in self.cells.items() if name == method for run in cell]
        results = [result for run in runs if run.finished and (result := open_run(run.path).result()) is not None]
        return statistics.fmean(result["seconds"] for result in results) if results else None

    def _table(self, found: tables.Cells) -> tuple[list[str], list[list[str]]]:
        columns, gains = self.recipe.columns, self.gains(found)
        header = ["error in %", *columns, "seconds"]
        shown = self.baseline is not None and len(columns) == 1  # beside several columns there is no room for gains
        if shown:
            header.append(f"gain over {self.baseline}")
        rows = []
        for row in self.recipe.rows:
            time = self.seconds(row.name)
            cells = [str(found[row.name, column]) for column in columns]
            cells.append("–" if time is None else f"{time:.1f}")
            if shown:
                cells += ["" if (one := gains[row.name, column]) is None else str(one) for column in columns]
            rows.append([row.name, *cells])
        return header, rows

    def _data(self, found: tables.Cells, said: Sequence[str]) -> dict[str, Any]:
        recipe, gains = self.recipe, self.gains(found)
        rows = []
        for (method, column), cell in found.items():
            over = gains[method, column]
            rows.append(
                {
                    "method": method,
                    "store": column,
                    "error": cell.mean,
                    "std": cell.std,
                    "errors": list(cell.errors),
                    "seeds": list(cell.seeds),
                    "gain": None if over is None else over.mean,
                    "gain_std": None if over is None else over.std,
                    "seconds": self.seconds(method),
                    "uses_unlabeled": uses_unlabeled(method),
                }
            )
        scale = {"model": recipe.model, "steps": recipe.steps, "vary": recipe.vary, "embeddings": recipe.embeddings}
        return {**scale, "baseline": self.baseline, "rows": rows, "notes": self.notes, "sentences": list(said)}


def _markdown(
    recipe: Recipe,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    said: Sequence[str],
    caption: str,
    notes: Sequence[str],
) -> str:
    out = [f"# {plain(recipe.title)}", "", *(plain(one) for one in said), "", plain(caption), ""]
    out += [f"| {' | '.join(map(plain, header))} |", "|---" * len(header) + "|"]
    out += [f"| {' | '.join(map(plain, row))} |" for row in rows]
    out += ["", *(f"Note: {plain(note)}" for note in notes)] if notes else []
    return "\n".join(out) + "\n"


def _csv(data: Mapping[str, Any]) -> str:
    names = ("method", "store", "error", "std", "gain", "gain_std", "seconds", "uses_unlabeled", "seeds", "errors")
    out = io.StringIO()
    lines = [names, *(tuple(_text(row[name]) for name in names) for row in data["rows"])]
    csv.writer(out, lineterminator="\n").writerows(map(csv_cell, line) for line in lines)
    return out.getvalue()


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
