"""What the unlabelled images of a store are worth: `realmix-train compare` and `foreign` from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from realmix.training import by_name
from stores import DatasetStore, SplitStore
from stores.embeddings import EmbeddingStore
from trainer.compare.plan import SEEDS, recipe
from trainer.compare.run import Compared, Comparison
from trainer.inference.foreign import Found, find
from trainer.inference.model import HasPath

Stored = str | PathLike[str] | SplitStore | DatasetStore


def compare(
    stores: Stored | Sequence[Stored],
    embeddings: str | EmbeddingStore | None = None,
    *,
    methods: Iterable[str] = (),
    seeds: Iterable[int] = SEEDS,
    steps: int | None = None,
    model: str | None = None,
    runs: str | PathLike[str] = "runs/compare",
    quiet: bool = False,
    **settings: object,
) -> Compared:
    """Train all methods on a store, and say whether its unlabelled images help. Finished runs are kept.

        >>> compared = compare(built.splits[0], made, methods=("probe", "knn"), seeds=(1, 2), runs=folder, quiet=True)
        >>> [(row["method"], len(row["errors"])) for row in compared.rows]
        [('probe', 2), ('knn', 2)]

    Args:
        stores: a split store, or several of one dataset store; the dataset store: all of its splits.
        embeddings: to train on in the place of images.
        methods: by name; empty: all that can train on the store.
        seeds: a labelled split and a training run for each.
        steps: updates of each run; None: 1,000 on embeddings, 5,000 on images.
        model: network; None: "linear" on embeddings, the papers' on images.
        runs: folder of the runs and of the finished table.
        quiet: show no progress.
        settings: of every run whose method has them, by name, as `train` takes them.

    Raises:
        UsageError: a method or a setting is unknown or wrong.
        StoreError: there is no such store, or it lacks what a method needs.
        RealMixError: some runs failed; the others are finished.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the same call continues.
    """
    given = stores if isinstance(stores, list | tuple) else [stores]
    places = [str(one.path if isinstance(one, SplitStore | DatasetStore) else one) for one in given]
    name = embeddings.name if isinstance(embeddings, EmbeddingStore) else embeddings
    made, paths, notes = recipe(places, name, list(methods), tuple(seeds), steps, model)
    assignments = [f"{key}={value}" for key, value in by_name(settings).items()]
    return Comparison(made, paths, assignments, Path(runs), notes).train(quiet=quiet)


def foreign(run: str | PathLike[str] | HasPath, store: str | SplitStore | None = None, device: str = "auto") -> Found:
    """Which unlabelled images of a run's store belong to none of its classes, and how many.

        >>> found = foreign(run)
        >>> sorted(found.summary())[:3]
        ['features', 'foreign', 'images']

    Args:
        run: its directory.
        store: another split store of the same classes; None: the run's own.
        device: "auto", "cpu" or "cuda".

    Raises:
        StoreError: the store has no unlabelled or no labelled images, or is not one for this run.
        UsageError: the run's own store is in object storage and was not named.
    """
    path = Path(run) if isinstance(run, str | PathLike) else run.path
    return find(path, str(store.path) if isinstance(store, SplitStore) else store, device)
