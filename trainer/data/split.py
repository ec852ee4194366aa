"""The split store that a run trains from."""

from __future__ import annotations

from stores import SplitStore, open_store
from stores.errors import StoreError
from stores.format import manifest
from stores.storage.location import Location, stores_in
from trainer.config.build import ON_EMBEDDINGS
from trainer.data.embedded import EmbeddedSplit


def open_split(path: str | Location | SplitStore, embeddings: str | None = None) -> SplitStore:
    """Open the store to train from, if it is not open already; with `embeddings`, to read those of its images.

    Raises:
        StoreError: it is no store, or a dataset store, which does not say which images are labelled.
    """
    store = path if isinstance(path, SplitStore) else open_store(path)
    if isinstance(store, SplitStore):
        if embeddings is None or isinstance(store, EmbeddedSplit):
            return store
        return EmbeddedSplit(store, embeddings)
    beside = []
    for candidate in stores_in(store.path.resolve().parent):
        try:
            content = manifest.read(candidate)
        except StoreError:  # a neighbour's damage is another day's error
            continue
        if content["kind"] == "split" and content["dataset"]["name"] == store.name:
            beside.append(candidate.name)
    raise StoreError(
        f"'{path}' is a dataset store: it does not say which images are labelled",
        "a run trains from one of its splits",
        f"its splits: {', '.join(beside)}" if beside else f"`realmix-data split {path} --labels 250` makes one",
    )


def family(store: SplitStore) -> str | None:
    """Dataset family that the presets know, from the dataset store's manifest ("cifar10", "svhn", …)."""
    return ON_EMBEDDINGS if isinstance(store, EmbeddedSplit) else store.dataset.manifest.get("protocol")
