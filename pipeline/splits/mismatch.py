"""Class mismatch: the unlabelled pool has images of classes that are not trained (Oliver et al. 2018).

CIFAR-10's standard levels train six animal classes with 400 labels each; 0 to 100 % of the four classes of the pool are
not among the six. Every class gives up as many images as a trained class, so that the pool has the same size at every
level. With classes by name the protocol applies to any dataset.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from pipeline.splits.classes import ANIMALS as ANIMALS
from pipeline.splits.classes import CIFAR10 as CIFAR10
from pipeline.splits.draw import (
    Labelled,
    Split,
    class_lists,
    in_proportion,
    require_pool,
    suffix,
    take_valid,
    the_same_of_each,
)
from stores.errors import UsageError, suggest
from stores.system.text import spelled

LABELS_PER_CLASS = 400

# share of the pool's classes that are not trained, in %: the pool (Oliver et al. 2018) and γ (the RealMix paper)
LEVELS: dict[int, tuple[tuple[str, ...], float]] = {
    0: (("deer", "dog", "frog", "horse"), 0.0),
    25: (("airplane", "dog", "frog", "horse"), 0.2),
    50: (("airplane", "automobile", "frog", "horse"), 0.4),
    75: (("airplane", "automobile", "horse", "ship"), 0.6),
    100: (("airplane", "automobile", "ship", "truck"), 0.85),
}


def mismatch_split(
    store: Labelled, percent: int, *, per_class: int = LABELS_PER_CLASS, seed: int = 1, valid: int = 0
) -> Split:
    """A standard level of CIFAR-10's class mismatch.

    Args:
        store: the dataset store.
        percent: 0, 25, 50, 75 or 100.
        per_class: labels of each of the six classes.
        seed: of the draw.
        valid: number of validation images, of the six classes.

    Raises:
        UsageError: another level, a dataset without CIFAR-10's classes, or too few images.
    """
    if not is_cifar10(store.class_names):
        why = "the standard levels are of CIFAR-10's animals and vehicles"
        raise UsageError("this dataset does not have CIFAR-10's ten classes", why, "use --labeled-classes by name")
    if percent not in LEVELS:
        raise UsageError(f"no standard mismatch of {percent} %", hint="choose 0, 25, 50, 75 or 100")
    others, gamma = LEVELS[percent]
    name = f"mismatch{percent}" + (f"_{per_class * len(ANIMALS)}" if per_class != LABELS_PER_CLASS else "")
    trained, pool = classes_of(store, ANIMALS), classes_of(store, others)
    taken = the_same_of_each(store, trained, _sizes(store, trained), per_class)
    return _split(store, trained, pool, taken, seed, valid, name, gamma, {"mismatch": percent})


def class_split(
    store: Labelled,
    labeled_classes: Sequence[str],
    unlabeled_classes: Sequence[str] | None = None,
    *,
    labels: int | None = None,
    per_class: int = LABELS_PER_CLASS,
    seed: int = 1,
    valid: int = 0,
) -> Split:
    """Class mismatch with classes by name.

    Args:
        store: the dataset store.
        labeled_classes: at least two class names; they become training classes 0, 1, … in the order of the dataset.
        unlabeled_classes: classes of the pool; None: all classes, and images without label.
        labels: number of labelled images, in proportion to the class sizes; None: `per_class` of each.
        per_class: labels of each class, if `labels` is None.
        seed: of the draw.
        valid: number of validation images.

    Raises:
        UsageError: an unknown class, fewer than two, too few images, or no image left to be unlabelled.
    """
    trained = classes_of(store, labeled_classes)
    if len(trained) < 2:
        raise UsageError("training needs at least two classes", hint="--labeled-classes cat,dog")
    pool = None if unlabeled_classes is None else classes_of(store, unlabeled_classes)
    sizes = _sizes(store, trained)
    taken = the_same_of_each(store, trained, sizes, per_class) if labels is None else in_proportion(sizes, labels)
    known = store.train_labels[store.train_labels >= 0]
    in_pool = known if pool is None else known[np.isin(known, pool)]
    percent = 100 * float(np.mean(~np.isin(in_pool, trained))) if len(in_pool) else 0.0
    gamma = suggested_gamma(percent)
    digest = blake2b(repr((trained, pool)).encode(), digest_size=2).hexdigest()
    name = f"mismatch{round(percent)}_{digest}_{taken.sum()}"
    return _split(store, trained, pool, taken, seed, valid, name, gamma, {})


def suggested_gamma(percent: float) -> float:
    """The share of rows to mask where so many per cent of the pool's images are foreign: between the standard ones."""
    return round(float(np.interp(percent, list(LEVELS), [gamma for _, gamma in LEVELS.values()])), 4)


def is_cifar10(class_names: Sequence[str]) -> bool:
    """Whether these are CIFAR-10's ten classes, in any order and case."""
    return sorted(name.lower() for name in class_names) == sorted(CIFAR10)


def _split(
    store: Labelled,
    trained: list[int],
    pool: list[int] | None,
    taken: np.ndarray,
    seed: int,
    valid: int,
    name: str,
    gamma: float,
    asked: dict,
) -> Split:
    """The split with `taken[i]` labels of class `trained[i]` and a pool of the classes `pool` (None: all)."""
    names, lists = store.class_names, class_lists(store, seed)
    labeled = np.sort(np.concatenate([lists[label][:n] for label, n in zip(trained, taken, strict=True)]))
    held = take_valid([lists[label][n:] for label, n in zip(trained, taken, strict=True)], valid)
    # every class gives up as many images as a trained class, so that the pool has one size for all classes
    drawn = int(taken.max()) + -(-valid // len(trained))
    rows = [lists[label][drawn:] for label in (range(len(names)) if pool is None else pool)]
    if pool is None:
        rows.append(np.flatnonzero(store.train_labels < 0))
    unlabeled = np.setdiff1d(np.concatenate(rows), np.concatenate([labeled, held]))
    require_pool(unlabeled)
    class_map = np.full(len(names), -1)
    class_map[trained] = np.arange(len(trained))
    return Split(
        name=name + suffix(seed, valid),
        protocol="mismatch",
        seed=seed,
        gamma=gamma,
        labeled=labeled,
        unlabeled=unlabeled,
        valid=held,
        test=np.flatnonzero(np.isin(store.test_labels, trained)),
        class_map=class_map,
        class_names=[names[label] for label in trained],
        description={
            "protocol": "mismatch",
            **asked,
            "labels": int(taken.sum()),
            "labeled_classes": [names[label] for label in trained],
            "unlabeled_classes": None if pool is None else [names[label] for label in pool],
            "valid": valid,
        },
    )


def _sizes(store: Labelled, classes: list[int]) -> np.ndarray:
    labels = store.train_labels
    return np.bincount(labels[labels >= 0], minlength=len(store.class_names))[classes]


def classes_of(store: Labelled, names: Sequence[str]) -> list[int]:
    """Indices of classes by name (in any case, if that is unambiguous), ascending."""
    return sorted({_class(store.class_names, name) for name in names})


def _class(known: Sequence[str], name: str) -> int:
    """The class of a name: exactly, or else after Unicode composition (NFC), without outer spaces, in any case."""
    for same in (str, _composed, lambda text: _composed(text).strip(), lambda text: _composed(text).strip().lower()):
        meant = [index for index, other in enumerate(known) if same(other) == same(name)]
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise UsageError(f"'{name}' may be several classes", ", ".join(spelled(known[index] for index in meant)))
    hint = 'a name with a comma stands in quotes: "cat, tabby",dog' if any("," in other for other in known) else ""
    raise UsageError(f"unknown class '{name}'", suggest(name, known), hint)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
