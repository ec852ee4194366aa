"""`realmix-train reproduce`: a table or figure of a paper, run and set beside the published numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands import completion
from trainer.commands.options import Debug, Threads

if TYPE_CHECKING:
    from trainer.reproduce.recipe import Vary

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe by name, or a .toml file; none: list them.",
        show_default=False,
        autocompletion=completion.recipes,
    ),
]
Stores = Annotated[str, typer.Option(help="Folder of the stores, or s3://bucket/….")]
Store = Annotated[
    list[str] | None, typer.Option(help="Train on this split store instead of the recipe's; may be repeated.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Updates of each run.", show_default="the paper's")]
Model = Annotated[str | None, typer.Option(help="Network.", show_default="the paper's")]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="1,2,…",
        help="Seeds of each cell: a labelled split and a training run for each.",
        show_default="the recipe's",
    ),
]
SplitSeeds = Annotated[
    str | None, typer.Option(metavar="1,2,…", help="Instead: labelled splits, all trained with seed 1.")
]
TrainSeeds = Annotated[
    str | None, typer.Option(metavar="1,2,…", help="Instead: training runs, all on the recipe's split.")
]
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
    split_seeds: SplitSeeds = None,
    train_seeds: TrainSeeds = None,
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
    """Train what a paper's table still lacks, and print it beside the published one.

    Example: `realmix-train reproduce table2 --steps 3000 --model wrn-10-1`
    """
    from stores.system.text import say
    from trainer.reproduce import recipe, run
    from trainer.reproduce.plan import Scale

    if name is None:
        names = recipe.known()
        for one in names:
            say(f"{one:{max(map(len, names))}}  {recipe.load(one).title}")
        return
    numbers, vary = _seeds({"both": seeds, "split": split_seeds, "training": train_seeds})
    chosen = (tuple(words or ()) for words in (store, row, column, assignments))
    scale = Scale(steps, model, numbers, vary, *chosen)
    table = run.prepare(recipe.load(name), scale, stores, runs)
    if dry_run:
        run.tell(table)
    elif show:
        run.write(table)
    else:
        run.train(table, jobs, threads)


FLAGS: dict[Vary, str] = {"both": "--seeds", "split": "--split-seeds", "training": "--train-seeds"}


def _seeds(given: dict[Vary, str | None]) -> tuple[tuple[int, ...] | None, Vary | None]:
    """The numbers of the one list like "1,2,3" that was given, and what they vary."""
    from stores.errors import UsageError

    lists = [(vary, text) for vary, text in given.items() if text is not None]
    if not lists:
        return None, None
    if len(lists) > 1:
        raise UsageError(f"{' and '.join(FLAGS[vary] for vary, _ in lists)} exclude each other")
    ((vary, text),) = lists
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UsageError(f"'{FLAGS[vary]} {text}' is no list of numbers", hint=f"like {FLAGS[vary]} 1,2,3")
    return tuple(dict.fromkeys(map(int, text.split(",")))), vary
