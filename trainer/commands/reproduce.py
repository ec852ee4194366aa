"""`realmix-train reproduce`: a table or figure of a paper, run and set beside the published numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.options import Debug, Threads

Name = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", help="A recipe by name, or a .toml file; none: list them.", show_default=False),
]
Stores = Annotated[str, typer.Option(help="Folder of the stores, or s3://bucket/….")]
Store = Annotated[
    list[str] | None, typer.Option(help="Train on this split store instead of the recipe's; may be repeated.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Updates of each run.", show_default="the paper's")]
Model = Annotated[str | None, typer.Option(help="Network.", show_default="the paper's")]
Seeds = Annotated[str | None, typer.Option(metavar="1,2,…", help="Seeds of each cell.", show_default="the recipe's")]
Rows = Annotated[list[str] | None, typer.Option("--row", help="Only this row; may be repeated.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="Only this column; may be repeated.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of every run that has it; may be repeated."),
]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at a time; several GPUs are shared out among them.")]
Runs = Annotated[Path, typer.Option(help="Folder of the runs and of the finished table.")]
Show = Annotated[bool, typer.Option("--show", help="Train nothing: the table of the runs that are finished.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, and train nothing.")]


def reproduce(
    name: Name = None,
    stores: Stores = "stores",
    store: Store = None,
    steps: Steps = None,
    model: Model = None,
    seeds: Seeds = None,
    row: Rows = None,
    column: Columns = None,
    assignments: Set = None,
    jobs: Jobs = 1,
    threads: Threads = None,
    runs: Runs = Path("runs/reproduce"),
    show: Show = False,
    dry_run: Dry = False,
    debug: Debug = False,
) -> None:
    """Train what a paper's table still lacks, and print it beside the published one."""
    from stores.system.text import say
    from trainer.reproduce import recipe, run
    from trainer.reproduce.plan import Scale

    if name is None:
        for one in recipe.known():
            say(f"{one:20} {recipe.load(one).title}")
        return
    scale = Scale(
        steps, model, _seeds(seeds), tuple(store or ()), tuple(row or ()), tuple(column or ()), tuple(assignments or ())
    )
    table = run.prepare(recipe.load(name), scale, stores, runs)
    if dry_run:
        run.tell(table)
    elif show:
        run.write(table)
    else:
        run.train(table, jobs, threads)


def _seeds(text: str | None) -> tuple[int, ...] | None:
    """Numbers of a list like "1,2,3"."""
    from stores.errors import UsageError

    if text is None:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UsageError(f"'--seeds {text}' is no list of numbers", hint="like --seeds 1,2,3")
    return tuple(dict.fromkeys(map(int, text.split(","))))
