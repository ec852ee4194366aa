"""The steps of `realmix-train reproduce`: prepare a table, train its runs, show and write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stores.errors import Interrupted, RealMixError
from stores.format import manifest
from stores.system import durable
from stores.system.text import print_table, say, visible
from trainer.reproduce import open_set, picture, sweep
from trainer.reproduce import table as tables
from trainer.reproduce.execute import execute
from trainer.reproduce.plan import Planned, Scale, plan, scaled
from trainer.reproduce.recipe import Recipe
from trainer.runs.run_dir import open_run


@dataclass(frozen=True)
class Table:
    """A table to be reproduced.

    Attributes:
        paper: the recipe as in its file.
        recipe: the recipe with the user's changes.
        cells: its runs by (row, column).
    """

    paper: Recipe
    recipe: Recipe
    cells: Mapping[tuple[str, str], list[Planned]]

    @property
    def runs(self) -> list[Planned]:
        """All runs, without repeats, in the order of the rows."""
        return list({run.path: run for cell in self.cells.values() for run in cell}.values())


def prepare(paper: Recipe, scale: Scale, root: str, runs: Path) -> Table:
    """Check everything that the table needs, before anything is trained; arguments and errors as in `plan.plan`."""
    recipe = scaled(paper, scale)
    table = Table(paper, recipe, plan(recipe, scale, root, runs))
    _texts(table)  # so that an error in writing them is not found after training
    return table


def tell(table: Table) -> None:
    """Print the state of each run."""
    for run in table.runs:
        state = "finished" if run.finished else "begun" if (run.path / "config.json").exists() else "to do"
        say(f"{state:9} {run.path}")


def train(table: Table, jobs: int = 1, threads: int | None = None) -> None:
    """Train the missing runs, then `write` the table.

    Args:
        table: the table.
        jobs: number of runs trained in parallel.
        threads: of each run; None: all processors, divided among the jobs.

    Raises:
        RealMixError: some runs failed; the others are finished and in the table.
        Interrupted: by Ctrl-C, SIGTERM or SIGHUP; the active runs are saved.
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
        said = "\n".join(visible(f"  {failure.run.path}: {failure.reason.splitlines()[0]}") for failure in failures)
        raise RealMixError(
            f"{len(failures)} of {len(table.runs)} runs failed:", said, "the same command tries them again"
        )


def write(table: Table) -> None:
    """Write the table of the finished runs as Markdown, CSV and SVG to the folder of its runs, and print it."""
    paths = []
    for kind, text in _texts(table).items():
        path = table.runs[0].path.parent / f"{table.recipe.name}.{kind}"
        durable.make_folder(path.parent)
        manifest.write_atomically(path, text.encode())
        paths.append(path)
    found, config = _found(table)
    header, *rows = tables.lines(table.recipe, found)
    faint = [i for i, row in enumerate(rows) if tables.is_printed(row)]
    print_table(rows, header, table.recipe.title, faint, numbers=True)
    more = open_set.lines(table.recipe, found)
    if more:
        faint = [i for i, row in enumerate(more[1:]) if tables.is_printed(row)]
        print_table(more[1:], more[0], "", faint, numbers=True)
    notes = [*tables.order(table.recipe, found), *tables.unverified(found)]
    for line in [tables.caption(table.recipe, table.paper, found, config), *notes, *paths]:
        say(line)


def _texts(table: Table) -> dict[str, str]:
    """Contents of the files, by suffix."""
    recipe, paper = table.recipe, table.paper
    found, config = _found(table)
    more = open_set.markdown(recipe, found) + sweep.markdown(recipe, found)
    return {
        "md": tables.markdown(recipe, paper, found, config) + more,
        "csv": tables.as_csv(recipe, found),
        "svg": picture.draw(recipe, found, tables.caption(recipe, paper, found, config)),
    }


def _found(table: Table) -> tuple[tables.Cells, dict[str, Any] | None]:
    """The errors of the finished runs, and config.json of one of them."""
    some = next((run for run in table.runs if run.finished), None)
    config = open_run(some.path).config if some else None
    return tables.cells(table.recipe, table.cells), config
