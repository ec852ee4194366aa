"""`realmix-data split`."""

from __future__ import annotations

import json

from pipeline.commands.options import Json, Name, SplitOptions, StorePath, open_dataset
from stores.errors import UsageError
from stores.system.text import say


def split(store: StorePath, splits: SplitOptions, name: Name = None, as_json: Json = False) -> None:
    """Add split stores to a dataset store: index arrays, no pixels."""
    from pipeline.splits.split_stores import requests_for, write_all

    requests = requests_for(
        splits.labels,
        splits.mismatch,
        splits.labeled_classes,
        splits.unlabeled_classes,
        splits.split_seed,
        splits.valid,
    )
    if not requests:
        raise UsageError(
            "split needs --labels, --mismatch or --labeled-classes", hint=f"realmix-data split {store} --labels 40"
        )
    paths = write_all(open_dataset(store), requests, name)
    if as_json:
        say(json.dumps([str(path) for path in paths]))
        return
    for path in paths:
        say(path)
