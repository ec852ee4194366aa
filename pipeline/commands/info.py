"""`realmix-data info`."""

from __future__ import annotations

import json

from pipeline.commands.options import Json, StorePath
from stores.system.text import say


def info(store: StorePath, as_json: Json = False) -> None:
    """What a store holds."""
    from pipeline.building.facts import dataset_facts, show, split_facts
    from stores import DatasetStore, open_store

    opened = open_store(store)
    facts = dataset_facts(opened) if isinstance(opened, DatasetStore) else split_facts(opened)
    say(json.dumps(facts)) if as_json else show(facts)
