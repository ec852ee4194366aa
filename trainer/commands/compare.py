"""`realmix-train compare`: all methods on one's own images, and whether the unlabelled ones help."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from stores.system.text import say
from trainer.commands.options import Debug, Json

Stores = Annotated[
    list[str],
    typer.Argument(metavar="STORE…", help="Split stores; a dataset store: all of its splits.", show_default=False),
]
Embeddings = Annotated[
    str | None, typer.Option(metavar="NAME", help="Train on these embeddings of the images.", show_default="the images")
]
Methods = Annotated[
    str | None, typer.Option(metavar="A,B,…", help="Methods.", show_default="all that can train on the store")
]
Seeds = Annotated[
    str, typer.Option(metavar="1-5", help="Seeds: a labelled split and a training run for each; 1-5 or 1,2,7.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Updates of each run.", show_default="1000 on embeddings, 5000")]
Model = Annotated[str | None, typer.Option(help="Network.", show_default="linear on embeddings, the papers'")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of every run that has it; may be repeated."),
]
Runs = Annotated[Path, typer.Option(help="Folder of the runs and of the finished table.")]
By = Annotated[
    str, typer.Option(metavar="IMAGES", help="Which images count: test, or valid to choose method and settings by.")
]
Show = Annotated[bool, typer.Option("--show", help="Train nothing: the table of the runs that are finished.")]


def compare(
    stores: Stores,
    embeddings: Embeddings = None,
    methods: Methods = None,
    seeds: Seeds = "1-5",
    steps: Steps = None,
    model: Model = None,
    assignments: Set = None,
    runs: Runs = Path("runs/compare"),
    by: By = "test",
    show: Show = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train all methods on a store, and say whether its unlabelled images help. Finished runs are kept.

    Example: `realmix-train compare stores/mine_all --embeddings tiny`
    """
    from trainer.compare.plan import recipe
    from trainer.compare.run import Compared, Comparison

    chosen = [name for name in (methods or "").split(",") if name]
    made, paths, notes = recipe(stores, embeddings, chosen, numbers_of(seeds), steps, model, by)
    comparison = Comparison(made, paths, assignments or [], runs, notes)

    def tell(compared: Compared) -> None:
        say(json.dumps(compared.data)) if as_json else compared.show()

    if show:
        tell(comparison.write())
    else:
        comparison.train(tell)


def numbers_of(text: str) -> tuple[int, ...]:
    """Seeds like "1-5", "1,2,7" or "1-3,8"."""
    from stores.errors import UsageError

    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", text):
        raise UsageError(f"'--seeds {text}' is no list of numbers", hint="like --seeds 1-5 or --seeds 1,2,7")
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) - int(first) >= 1000:
            raise UsageError(f"'--seeds {text}' are too many")
        numbers += range(int(first), int(last or first) + 1)
    if not numbers:
        raise UsageError(f"'--seeds {text}' names no seed", hint="like --seeds 1-5")
    return tuple(dict.fromkeys(numbers))
