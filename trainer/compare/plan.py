"""What is compared: a recipe of `trainer.reproduce` with a row for each method and a column for each split store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stores import DatasetStore, SplitStore, open_store
from stores.errors import StoreError, UsageError, suggest
from stores.storage.location import Location, locate, stores_in
from trainer.data.embedded import EmbeddedSplit
from trainer.data.split import open_split
from trainer.methods import FITTED, METHODS, list_methods, load_method
from trainer.reproduce.plan import split_of
from trainer.reproduce.recipe import Recipe, Row, Vary

PIXEL_STEPS = 5_000  # of a run on images, where the papers make 500,000
SEEDS = (1, 2, 3, 4, 5)
BY = {"test": ("last", ""), "valid": ("valid", "_by_valid")}  # error of a run that counts, and what a table's name adds


def recipe(
    places: Sequence[str],
    embeddings: str | None,
    methods: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
    model: str | None,
    by: str = "test",
) -> tuple[Recipe, list[str], list[str]]:
    """The recipe of a comparison.

    Args:
        places: split stores; a dataset store stands for all of its splits.
        embeddings: that the methods train on; None: the images.
        methods: by name; empty: all that can train on these stores.
        seeds: a labelled split and a training run each; training runs alone where a split of another seed is missing.
        steps, model: of the runs; None: 1,000 steps of a linear classifier on embeddings, 5,000 of the papers' network.

        by: which images count: "test", or "valid", by which settings and methods are chosen.

    Returns:
        the recipe, the paths of its columns' stores, and what a person should know about it.

    Raises:
        UsageError: an unknown method; validation images are to count and there are none.
        StoreError: there is no such store, or its splits are of different datasets.
    """
    paths = [path for place in places for path in _splits(place)]
    columns = {locate(path).resolve().name: path for path in paths}
    stores = [open_split(path, embeddings) for path in columns.values()]
    chosen = list(methods) or [*(FITTED if embeddings else {}), *METHODS]
    for name in chosen:
        if name not in list_methods():
            raise UsageError(f"unknown method '{name}'", suggest(name, list_methods()))
    vary, notes = _vary(list(columns.values()), seeds)
    names = {store.dataset.name for store in stores}
    if len(names) > 1:
        raise StoreError(
            "the stores are splits of different datasets", ", ".join(sorted(names)), "compare them one by one"
        )
    on = f", on embeddings '{embeddings}'" if embeddings else ""
    if by not in BY:
        raise UsageError(f"--by {by}: there are no such images", suggest(by, BY))
    if by == "valid" and (bare := [store for store in stores if not len(store.valid)]):
        raise UsageError(
            f"'{bare[0].path}' has no validation images",
            hint=f"`realmix-data split {bare[0].path} --folds 5` makes splits for cross-validation",
        )
    made = Recipe(
        name=f"compare_{'_'.join(columns) if len(columns) == 1 else names.pop()}{BY[by][1]}",
        title=f"All methods on {', '.join(columns)}{on}",
        source="",
        axis="split" if len(columns) > 1 else "",
        stores="",
        steps=steps or (1_000 if embeddings else PIXEL_STEPS),
        model=model or _model(stores[0]),
        seeds=tuple(seeds),
        vary=vary,
        error=BY[by][0],
        settings={},
        columns=tuple(columns),
        rows=tuple(Row(name, name, {}, columns, dict.fromkeys(columns, "")) for name in dict.fromkeys(chosen)),
        embeddings=embeddings,
    )
    return made, list(columns.values()), notes


def uses_unlabeled(name: str) -> bool:
    """Whether a method looks at unlabelled images."""
    method = load_method(name)
    return bool(method.views(method.Settings()).unlabeled)


def _model(store: SplitStore) -> str:
    if isinstance(store, EmbeddedSplit):
        return "linear"
    return "wrn-37-2" if max(store.dataset.image_size) >= 64 else "wrn-28-2"


def _splits(place: str) -> list[str]:
    """A split store itself; of a dataset store its splits of the first seed, without those of all labels."""
    store = open_store(place)
    if not isinstance(store, DatasetStore):
        return [place]
    found = []
    for beside in sorted(stores_in(store.path.resolve().parent), key=lambda path: path.name):
        if beside.name.startswith(f"{store.name}_") and not beside.name.endswith("_all"):
            split = _split_at(beside)
            if split is not None and split.dataset.fingerprint == store.fingerprint and split.seed == 1:
                found.append((len(split.labeled), str(beside)))
    if not found:
        hint = f"`realmix-data split {place} --labels 40` makes one"
        raise StoreError(f"'{place}' is a dataset store without splits of some labels", hint=hint)
    return [path for _, path in sorted(found)]


def _split_at(place: Location) -> SplitStore | None:
    try:
        store = open_store(place)
    except StoreError:  # a neighbour's damage is another day's error
        return None
    return store if isinstance(store, SplitStore) else None


def _vary(paths: Sequence[str], seeds: Sequence[int]) -> tuple[Vary, list[str]]:
    """Whether there is a labelled split for each seed, and what to say if not."""
    missing = [name for path in paths for seed in seeds if not (locate(name := split_of(path, seed))).is_dir()]
    if not missing or len(seeds) == 1:
        return "both", []
    first = Path(missing[0]).name
    return "training", [
        f"there is no '{first}', so all seeds train on one labelled split: the spread says nothing about other labels; "
        "`realmix-data split … --split-seed` makes others"
    ]
