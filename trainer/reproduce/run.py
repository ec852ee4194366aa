"""The command's work: plan, train, show, write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stores import manifest
from stores.errors import Interrupted, RealMixError
from trainer.reproduce import picture
from trainer.reproduce import table as tables
from trainer.reproduce.execute import execute
from trainer.reproduce.plan import Planned, Scale, plan, scaled
from trainer.reproduce.recipe import Recipe


@dataclass(frozen=True)
class Table:
    """A table to be made.

    Attributes:
        paper: the recipe as in its file; recipe: as it is run; cells: its runs by (row, column).
    """

    paper: Recipe
    recipe: Recipe
    cells: Mapping[tuple[str, str], list[Planned]]

    @property
    def runs(self) -> list[Planned]:
        """Each once, in the order of the rows."""
        return list({run.path: run for cell in self.cells.values() for run in cell}.values())


def prepare(paper: Recipe, scale: Scale, root: str, runs: Path) -> Table:
    """Check everything that the table needs before anything is trained; for arguments and errors see `plan.plan`."""
    recipe = scaled(paper, scale)
    return Table(paper, recipe, plan(recipe, scale, root, runs))


def tell(table: Table) -> None:
    """Print what each run's state is."""
    for run in table.runs:
        state = "finished" if run.finished else "begun" if (run.path / "config.json").exists() else "to do"
        print(f"{state:9} {run.path}")


def train(table: Table, jobs: int = 1, threads: int | None = None) -> None:
    """Train what is missing, `jobs` runs at a time, then `write`. `threads`: of each run; None: what the machine has.

    Raises:
        RealMixError: some runs failed; the others are finished, and in the table.
        Interrupted: by Ctrl-C, SIGTERM or SIGHUP; what was being trained is saved.
    """
    gpus = torch.cuda.device_count()
    if threads is None and jobs > 1 and not gpus:
        threads = max(1, torch.get_num_threads() // jobs)  # they share the processor
    options = () if threads is None else ("--threads", str(threads))
    try:
        failures = execute(table.runs, jobs, options, gpus)
    except Interrupted:
        raise Interrupted(
            "interrupted", "the runs that were being trained are saved", "the same command continues"
        ) from None
    write(table)
    if failures:
        said = "\n".join(f"  {failure.run.path}: {failure.reason.splitlines()[0]}" for failure in failures)
        raise RealMixError(
            f"{len(failures)} of {len(table.runs)} runs failed:\n{said}", hint="the same command tries them again"
        )


def write(table: Table) -> None:
    """Print the table of the finished runs; write it as Markdown, CSV and SVG into the folder of its runs."""
    recipe, paper, runs = table.recipe, table.paper, table.runs
    found = tables.cells(recipe, table.cells)
    some = next((run for run in runs if run.finished), None)
    config: dict[str, Any] | None = json.loads((some.path / "config.json").read_text()) if some else None
    _show(recipe, found)
    caption = tables.caption(recipe, paper, found, config)
    for line in [caption.replace("**", ""), *tables.order(recipe, found)]:
        print(line)
    texts = {
        "md": tables.markdown(recipe, paper, found, config),
        "csv": tables.as_csv(recipe, found),
        "svg": picture.draw(recipe, found, caption),
    }
    for kind, text in texts.items():
        path = runs[0].path.parent / f"{recipe.name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_atomically(path, text.encode())
        print(path)


def _show(recipe: Recipe, found: tables.Cells) -> None:
    """The table on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    header, *rows = tables.lines(recipe, found)
    shown = Table(title=recipe.title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for i, cell in enumerate(header):
        shown.add_column(cell, justify="right" if i else "left")
    for row in rows:
        shown.add_row(*row, style="dim" if row[0] == "published" else None)
    Console(highlight=False).print(shown)
