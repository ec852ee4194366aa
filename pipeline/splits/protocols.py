"""The splits that a dataset usually gets, and one way to ask for any split.

A `Request` says what is asked; `draw_split` draws it. The standard requests of a dataset are those of the papers; the
ones that its images cannot fill (a small folder of CIFAR-10's classes) are left out and named, while the same request
made by a person is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pipeline.splits.draw import Labelled, Split, fold_split, label_split, suffix
from pipeline.splits.mismatch import LABELS_PER_CLASS, LEVELS, class_split, mismatch_split
from stores.errors import UsageError

# Numbers of labelled images in the papers' tables.
LABELS: dict[str, tuple[int, ...]] = {
    "cifar10": (250, 500, 1000, 2000, 4000),
    "svhn": (250, 500, 1000, 2000, 4000),
    "cifar100": (400, 2500, 10000),
    "stl10": (1000, 5000),
    "digits": (20, 50, 100),
}
PER_CLASS = (4, 25, 100, 400)


@dataclass(frozen=True)
class Request:
    """One split, as asked for.

    Args:
        labels: "all" = every image with a label that is not held out, so that the pool is what came without; or a
            number of labelled images; with `mismatch` or `labeled_classes`, of the trained classes together.
        mismatch: a standard level of CIFAR-10's class mismatch in %.
        labeled_classes, unlabeled_classes: class mismatch by name; no unlabeled_classes = all.
        seed: of the draw; where the dataset has predefined labelled folds of just `labels` images (STL-10), the fold.
        valid: number of validation images.
    """

    labels: int | Literal["all"] | None = None
    mismatch: int | None = None
    labeled_classes: tuple[str, ...] | None = None
    unlabeled_classes: tuple[str, ...] | None = None
    seed: int = 1
    valid: int = 0


def draw_split(store: Labelled, request: Request) -> Split:
    """The split of a request; what does not fit the dataset is a `UsageError`."""
    seed, valid, labels = request.seed, request.valid, request.labels
    if valid < 0:
        raise UsageError(f"--valid {valid}: the number of validation images cannot be negative")
    if labels == "all":
        if request.mismatch is not None or request.labeled_classes is not None:
            raise UsageError("--labels all is for a dataset's own labels, without a mismatch", hint="name a number")
        count = int(np.count_nonzero(store.train_labels >= 0)) - valid
        return replace(label_split(store, count, seed=seed, valid=valid), name=f"all{suffix(seed, valid)}")
    if request.mismatch is not None:
        if labels is None:
            return mismatch_split(store, request.mismatch, seed=seed, valid=valid)
        if labels % 6:
            raise UsageError(f"{labels} labels cannot be shared equally by six classes", hint="ask for a multiple of 6")
        return mismatch_split(store, request.mismatch, per_class=labels // 6, seed=seed, valid=valid)
    if request.labeled_classes is not None:
        wanted, pool = request.labeled_classes, request.unlabeled_classes
        return class_split(store, wanted, pool, labels=labels, per_class=LABELS_PER_CLASS, seed=seed, valid=valid)
    if request.unlabeled_classes is not None:
        raise UsageError("--unlabeled-classes needs --labeled-classes", hint="--labeled-classes cat,dog")
    if labels is None:
        raise UsageError("a split needs a number of labels, a mismatch level or class names", hint="--labels 250")
    if store.folds is not None and labels == store.folds.shape[1]:
        return fold_split(store, seed, valid=valid)
    return label_split(store, labels, seed=seed, valid=valid)


def draw_again(store: Labelled, content: dict[str, Any]) -> Iterator[Split]:
    """The splits that the manifest of a split store may describe.

    A manifest holds what was drawn, not how it was requested: a split of named classes may come from a number of labels
    a class or from the same number in total. The fingerprint tells which of them it is.
    """
    spec = content["spec"]
    seed = spec.get("fold", content["seed"])
    asked = Request(mismatch=spec.get("mismatch"), labels=spec["labels"], seed=seed, valid=spec["valid"])
    if content["protocol"] != "mismatch" or asked.mismatch is not None:
        yield draw_split(store, asked)
    else:
        pool = spec["unlabeled_classes"]
        named = replace(
            asked, labeled_classes=tuple(spec["labeled_classes"]), unlabeled_classes=tuple(pool) if pool else None
        )
        yield from (draw_split(store, request) for request in (named, replace(named, labels=None)))


def standard_requests(store: Labelled, protocol: str | None, *, seed: int = 1, valid: int = 0) -> list[Request]:
    """What a dataset usually gets.

    Args:
        protocol: "cifar10", "cifar100", "svhn", "stl10", "digits", or None: then 4, 25, 100 and 400 labels a class, as
            far as they leave half of the labelled images unlabelled, or one a class if none does; and before them all
            labels, if there are images without.
        seed, valid: of each of them.
    """
    if protocol in LABELS:
        requests = [Request(labels=count, seed=seed, valid=valid) for count in LABELS[protocol]]
        if protocol == "cifar10":
            requests += [Request(mismatch=percent, seed=seed, valid=valid) for percent in LEVELS]
        return requests
    known = np.count_nonzero(store.train_labels >= 0)
    classes = len(store.class_names)
    counts = [each * classes for each in PER_CLASS if each * classes <= known // 2] or [classes]
    requests = [Request(labels=count, seed=seed, valid=valid) for count in counts]
    if known < len(store.train_labels):  # people who bring images without labels want all of their labels used
        requests.insert(0, Request(labels="all", seed=seed, valid=valid))
    return requests


def draw_standard(
    store: Labelled, protocol: str | None, *, seed: int = 1, valid: int = 0
) -> tuple[list[Split], list[tuple[Request, str]]]:
    """The standard splits that the dataset can fill, and the requests left out, each with the reason."""
    splits: list[Split] = []
    left_out: list[tuple[Request, str]] = []
    for request in standard_requests(store, protocol, seed=seed, valid=valid):
        try:
            splits.append(draw_split(store, request))
        except UsageError as error:
            left_out.append((request, error.what))
    return splits, left_out
