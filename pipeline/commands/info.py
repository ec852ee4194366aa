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
    """What a store holds.

    Example: `realmix-data info stores/cifar10_mismatch75`
    """
    from pipeline.building.facts import dataset_facts, embedding_facts, file_lines, show, split_facts
    from stores import DatasetStore, SplitStore, open_store
    from stores.embeddings import holds_embeddings, names_of, open_with_dataset

    opened: DatasetStore | SplitStore
    if holds_embeddings(store):
        embeddings, opened = open_with_dataset(store)
        facts = embedding_facts(embeddings)
    elif isinstance(opened := open_store(store), DatasetStore):
        facts = dataset_facts(opened) | {"embeddings": names_of(opened)}
    else:
        facts = split_facts(opened)
    if files:
        for line in file_lines(opened):
            write(line)
        return
    say(json.dumps(facts)) if as_json else show(facts)
