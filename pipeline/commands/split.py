"""`realmix-data split`."""

from __future__ import annotations

import json

from pipeline.commands.options import Json, Name, SplitOptions, StorePath
from stores.system.text import say


def split(store: StorePath, splits: SplitOptions, name: Name = None, as_json: Json = False) -> None:
    """Add split stores to a dataset store: index arrays, no pixels."""
    from pipeline.api import split as add_splits

    made = add_splits(store, **vars(splits), name=name)
    if as_json:
        say(json.dumps([str(one.path) for one in made]))
        return
    for one in made:
        say(one.path)
