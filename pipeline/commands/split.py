"""`realmix-data split`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from pipeline.commands.options import Json, Name, SplitOptions, StorePath
from stores.system.text import say


def split(
    store: StorePath,
    splits: SplitOptions,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validation: as many splits, each holds another part of all labels out."),
    ] = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Add split stores to a dataset store: index arrays, no pixels.

    Example: `realmix-data split stores/cifar10 --labels 40,4/class --split-seed 3`
    """
    from pipeline.api import split as add_splits

    made = add_splits(store, **dataclasses.asdict(splits), folds=folds, name=name)
    if as_json:
        say(json.dumps([str(split.path) for split in made]))
        return
    for split in made:
        say(split.path)
