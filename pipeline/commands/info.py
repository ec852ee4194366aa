"""`realmix-data info`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline.commands.options import Json, StorePath
from stores.system.text import say, write


def info(
    store: StorePath,
    as_json: Json = False,
    files: Annotated[
        bool,
        typer.Option("--files", help="Print which file each image came from instead, as CSV: part,row,class,file."),
    ] = False,
) -> None:
    """What a store holds."""
    from pipeline.building.facts import dataset_facts, file_lines, show, split_facts
    from stores import DatasetStore, open_store

    opened = open_store(store)
    if files:
        for line in file_lines(opened):
            write(line)
        return
    facts = dataset_facts(opened) if isinstance(opened, DatasetStore) else split_facts(opened)
    say(json.dumps(facts)) if as_json else show(facts)
