"""Requests for splits, and the standard ones of each dataset.

A `Request` describes a split, `draw_split` draws it. The standard requests are those of the papers. If a dataset has
too few images for a standard request (a small folder with CIFAR-10's classes), it is left out and reported; the same
request of a user is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pipeline.splits import validation
from pipeline.splits.draw import Labelled, Split, even_split, fold_split, label_split, suffix
from pipeline.splits.mismatch import LABELS_PER_CLASS, LEVELS, class_split, mismatch_split
from pipeline.splits.open_set import PROTOCOLS, SHARES, Published, open_split, published
from stores.errors import UsageError, suggest

# numbers of labelled images in the papers' tables
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
    """A request for a split.

    Args:
        labels: number of labelled images, with `mismatch` or `labeled_classes` of the trained classes together; "all":
            every labelled image that is not for validation, so that the pool is the images that came without labels,
            and empty if all have one.
        per_class: number of labelled images of each class, instead of `labels`.
        mismatch: a standard level of CIFAR-10's class mismatch in %.
        labeled_classes: class mismatch by name: the classes to train.
        unlabeled_classes: class mismatch by name: the classes of the pool; None: all.
        protocol: an open-set protocol; then `labeled_classes` are the known ones, None: those of its papers, and
            `unlabeled_classes` the foreign ones of the pool, None: all others.
        share: of the foreign images, of the protocol "fixed-known".
        seed: of the draw; if the dataset has predefined labelled folds of `labels` images (STL-10), the fold.
        valid: number of validation images.
        folds: cross-validation over all labels: their number; `seed` is which of them is held out.
    """

    labels: int | Literal["all"] | None = None
    per_class: int | None = None
    mismatch: int | None = None
    labeled_classes: tuple[str, ...] | None = None
    unlabeled_classes: tuple[str, ...] | None = None
    seed: int = 1
    valid: int = 0
    protocol: str | None = None
    share: float | None = None
    folds: int | None = None


def completed(store: Labelled, request: Request) -> list[Request]:
    """The splits that a request stands for: all folds; what an open-set protocol leaves open is as in papers.

    Raises:
        UsageError: no such protocol, or neither papers nor the request say the known classes or the number of labels.
    """
    name = request.protocol
    if request.folds is not None:
        return [replace(request, seed=fold + 1) for fold in range(request.folds)]
    if name is None:
        return [request]
    if request.share is not None and name != "fixed-known":
        raise UsageError(f"--shares is of the protocol fixed-known, not of {name}")
    if name == "oliver":
        return [replace(request, protocol=None, mismatch=level) for level in LEVELS]
    if name not in PROTOCOLS:
        raise UsageError(f"there is no protocol '{name}'", suggest(name, ("oliver", *PROTOCOLS)))
    papers = published(store.class_names, name)
    if request.labeled_classes is not None:
        papers = [Published(request.labeled_classes, (), PROTOCOLS[name])]
    if not papers:
        why = f"no paper divides this data set by the protocol {name}"
        raise UsageError("it is not known which classes are known", why, "--labeled-classes cat,dog --labels 40")
    made = []
    for paper in papers:
        count = len(paper.known)
        each = paper.labels if request.per_class is None else (request.per_class,)
        for labels in [n * count for n in each] if request.labels is None else [request.labels]:
            valid = request.valid or paper.valid * count
            one = replace(request, labels=labels, per_class=None, labeled_classes=paper.known, valid=valid)
            made.append(one)
    if not made:
        raise UsageError("an open-set split needs a number of labels", hint="--labels 40")
    if name == "fixed-known" and request.share is None:
        return [replace(one, share=share) for one in made for share in SHARES]
    return made


def draw_split(store: Labelled, request: Request) -> Split:
    """Draw the split of a request.

    Raises:
        UsageError: the request does not fit the dataset.
    """
    seed, valid, labels = request.seed, request.valid, request.labels
    if valid < 0:
        raise UsageError(f"--valid {valid}: the number of validation images cannot be negative")
    if request.folds is not None:
        return validation.fold_split(store, request.folds, seed)
    if request.protocol is not None:
        return _draw_open(store, request.protocol, request)
    if labels == "all":
        if request.mismatch is not None or request.labeled_classes is not None:
            raise UsageError("--labels all is for a dataset's own labels, without a mismatch", hint="name a number")
        count = int(np.count_nonzero(store.train_labels >= 0)) - valid
        return replace(label_split(store, count, seed=seed, valid=valid, pool=False), name=f"all{suffix(seed, valid)}")
    each = request.per_class
    if request.mismatch is not None:
        return _draw_level(store, request.mismatch, request)
    if request.labeled_classes is not None:
        wanted, pool = request.labeled_classes, request.unlabeled_classes
        each = LABELS_PER_CLASS if each is None else each
        return class_split(store, wanted, pool, labels=labels, per_class=each, seed=seed, valid=valid)
    if request.unlabeled_classes is not None:
        raise UsageError("--unlabeled-classes needs --labeled-classes", hint="--labeled-classes cat,dog")
    if each is not None:
        return even_split(store, each, seed=seed, valid=valid)
    if labels is None:
        raise UsageError("a split needs a number of labels, a mismatch level or class names", hint="--labels 250")
    if store.folds is not None and labels == store.folds.shape[1]:
        return fold_split(store, seed, valid=valid)
    return label_split(store, labels, seed=seed, valid=valid)


def _draw_level(store: Labelled, percent: int, request: Request) -> Split:
    each, labels = request.per_class or LABELS_PER_CLASS, request.labels
    if isinstance(labels, int):
        if labels % 6:
            raise UsageError(f"{labels} labels cannot be shared equally by six classes", hint="ask for a multiple of 6")
        each = labels // 6
    return mismatch_split(store, percent, per_class=each, seed=request.seed, valid=request.valid)


def _draw_open(store: Labelled, protocol: str, request: Request) -> Split:
    known, labels = request.labeled_classes, request.labels
    if known is None or labels is None or labels == "all":
        raise UsageError("an open-set split needs known classes and a number of labels", hint="--labels 40")
    options: dict[str, Any] = {"foreign": request.unlabeled_classes, "share": request.share}
    return open_split(store, protocol, known, labels, seed=request.seed, valid=request.valid, **options)


def draw_again(store: Labelled, content: dict[str, Any]) -> Iterator[Split]:
    """The splits that the manifest of a split store may describe.

    A manifest need not hold how a split was requested: one of named classes may come from a number of labels a class or
    from the same number in total. The fingerprint tells which of them it is.
    """
    spec = content["spec"]
    seed = spec.get("fold", content["seed"])
    if "folds" in spec:
        yield draw_split(store, Request(folds=spec["folds"], seed=seed))
        return
    labels: Any = spec["labels"] if content["counts"]["unlabeled"] else "all"
    asked = Request(mismatch=spec.get("mismatch"), labels=labels, seed=seed, valid=spec["valid"])
    if "per_class" in spec:
        asked = replace(asked, labels=None, per_class=spec["per_class"])
    if "open_set" in spec:
        foreign = spec["unlabeled_classes"]
        classes = {"labeled_classes": tuple(spec["labeled_classes"]), "protocol": spec["open_set"]}
        pool = None if foreign is None else tuple(foreign)
        yield draw_split(store, replace(asked, **classes, unlabeled_classes=pool, share=spec["share"]))
        return
    if content["protocol"] != "mismatch" or asked.mismatch is not None:
        yield draw_split(store, asked)
    else:
        pool = spec["unlabeled_classes"]
        named = replace(
            asked, labeled_classes=tuple(spec["labeled_classes"]), unlabeled_classes=tuple(pool) if pool else None
        )
        each = replace(named, labels=None, per_class=spec["labels"] // len(spec["labeled_classes"]))
        yield from (draw_split(store, request) for request in (named, each))


def standard_requests(store: Labelled, protocol: str | None, *, seed: int = 1, valid: int = 0) -> list[Request]:
    """The standard requests of a dataset.

    Args:
        store: the dataset store.
        protocol: "cifar10", "cifar100", "svhn", "stl10" or "digits". None: all labels, and 4, 25, 100 and 400 labels
            of each class, if that leaves half of the labelled images unlabelled, or else one of each.
        seed: of each request.
        valid: number of validation images of each request.
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
    return [Request(labels="all", seed=seed, valid=valid), *requests]  # who brings labels wants them used


def draw_standard(
    store: Labelled, protocol: str | None, *, seed: int = 1, valid: int = 0
) -> tuple[list[Split], list[tuple[Request, str]]]:
    """Draw the standard splits; returns them, and the requests left out, each with the reason."""
    splits: list[Split] = []
    left_out: list[tuple[Request, str]] = []
    for request in standard_requests(store, protocol, seed=seed, valid=valid):
        try:
            splits.append(draw_split(store, request))
        except UsageError as error:
            left_out.append((request, error.what))
    return splits, left_out
