"""Drawing which images are labelled: index arrays into one dataset store, no pixels.

The labelled images are those of the public MixMatch, RealMix and FixMatch code: the images of each class, in the order
of the source, are shuffled class by class with one generator, and a greedy rule gives each class labels in proportion
to its size. Validation images are the next ones in the shuffled lists. All others are unlabelled; a method may add the
labelled images to them when it trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stores.errors import UsageError


class Labelled(Protocol):
    """What drawing a split needs; a `DatasetStore` has it."""

    @property
    def class_names(self) -> list[str]: ...
    @property
    def train_labels(self) -> np.ndarray:
        """Labels of the training images, int64 [N]; −1 = no label."""

    @property
    def test_labels(self) -> np.ndarray:
        """Labels of the test images, int64 [M]."""

    @property
    def source_index(self) -> np.ndarray:
        """Index in the source of each training image, int64 [N]."""

    @property
    def folds(self) -> np.ndarray | None:
        """Rows of predefined labelled folds, int64 [F, n]; None: there are none."""


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a dataset store.

    Args:
        name: suffix of the split store's name, e.g. "250", "40_seed3", "mismatch75", "250_valid5000".
        protocol: "labels", "folds" or "mismatch".
        seed: of the draw; for "folds" the fold.
        gamma: suggested share of the unlabelled rows to mask as out of distribution.
        labeled: int64 rows of the training images, ascending.
        unlabeled: int64 rows of the training images, ascending, disjoint from `labeled`.
        valid: int64 rows of the training images, ascending, disjoint from both.
        test: int64 rows of the test images.
        class_map: int64 [C], training class of each class of the store; −1 = none.
        class_names: of the training classes.
        description: the request, as JSON.
    """

    name: str
    protocol: str
    seed: int
    gamma: float
    labeled: np.ndarray
    unlabeled: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    class_map: np.ndarray
    class_names: list[str]
    description: dict


def label_split(store: Labelled, count: int, *, seed: int = 1, valid: int = 0, pool: bool = True) -> Split:
    """Label `count` images, in proportion to the class sizes; all others are unlabelled.

    Args:
        store: the dataset store.
        count: number of labelled images, at least one per class.
        seed: of the draw; 0 takes the first images of each class, as the public code does.
        valid: number of validation images, spread over the classes as evenly as possible.
        pool: whether an image must be left to be unlabelled.

    Raises:
        UsageError: fewer labels than classes, more than there are, or no image left to be unlabelled.
    """
    taken = in_proportion(_sizes(store), count)
    split = _taking(store, taken, f"{count}", seed, valid, {"labels": count, "valid": valid})
    if pool:
        require_pool(split.unlabeled)
    return split


def even_split(store: Labelled, per_class: int, *, seed: int = 1, valid: int = 0) -> Split:
    """Label `per_class` images of each class; otherwise as `label_split`.

    Raises:
        UsageError: fewer than one, a class with fewer images, or no image left to be unlabelled.
    """
    sizes = _sizes(store)
    taken = the_same_of_each(store, list(range(len(sizes))), sizes, per_class)
    asked = {"labels": int(taken.sum()), "per_class": per_class, "valid": valid}
    split = _taking(store, taken, f"{per_class}perclass", seed, valid, asked)
    require_pool(split.unlabeled)
    return split


def _sizes(store: Labelled) -> np.ndarray:
    return np.bincount(store.train_labels[store.train_labels >= 0], minlength=len(store.class_names))


def _taking(store: Labelled, taken: np.ndarray, name: str, seed: int, valid: int, asked: dict) -> Split:
    """A split of all classes with `taken[k]` labels of class k."""
    lists = class_lists(store, seed)
    rest = [rows[n:] for rows, n in zip(lists, taken, strict=True)]
    labeled = np.sort(np.concatenate([rows[:n] for rows, n in zip(lists, taken, strict=True)]))
    held = take_valid(rest, valid)
    return whole(store, f"{name}{suffix(seed, valid)}", "labels", seed, labeled, held, asked)


def fold_split(store: Labelled, fold: int = 1, *, valid: int = 0) -> Split:
    """Label a predefined fold (STL-10; Coates et al. 2011); the public code uses fold s, from 0, for seed s.

    Args:
        store: the dataset store.
        fold: number of the fold, from 0.
        valid: number of validation images.

    Raises:
        UsageError: the store has no folds, or not this one.
    """
    if store.folds is None:
        raise UsageError("this dataset has no predefined folds", hint="ask for a number of labels instead")
    if not 0 <= fold < len(store.folds):
        raise UsageError(f"no fold {fold}", f"there are folds 0 to {len(store.folds) - 1}")
    labeled = np.sort(store.folds[fold])
    rest = [rows[~np.isin(rows, labeled)] for rows in class_lists(store, fold)]
    name = f"{len(labeled)}_fold{fold}" + (f"_valid{valid}" if valid else "")
    asked = {"labels": len(labeled), "fold": fold, "valid": valid}
    split = whole(store, name, "folds", fold, labeled, take_valid(rest, valid), asked)
    require_pool(split.unlabeled)
    return split


def class_lists(store: Labelled, seed: int) -> list[np.ndarray]:
    """Rows of each class in the order in which they get labels: the order of the source, shuffled unless `seed` is 0.

    Returns:
        An int64 array of rows of the store for each class.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"{seed} is not a seed", "a seed is a whole number from 0 to 4294967295")
    in_source = np.argsort(store.source_index, kind="stable")
    labels = store.train_labels[in_source]
    generator = np.random.RandomState(seed)  # as in the public code: the same images for the same seed
    lists = []
    for label in range(len(store.class_names)):
        rows = in_source[labels == label]
        if seed:
            generator.shuffle(rows)
        lists.append(rows)
    return lists


def in_proportion(sizes: np.ndarray, count: int) -> np.ndarray:
    """Distribute `count` labels over classes in proportion to their sizes, int64 [C], at least one to each class.

    Raises:
        UsageError: fewer labels than classes, or more than images.
    """
    classes = np.count_nonzero(sizes)
    if count < classes:
        raise UsageError(f"{count} labels are too few for {classes} classes", hint=f"ask for at least {classes}")
    if count > sizes.sum():
        raise UsageError(f"{count:,} labels asked for, but only {sizes.sum():,} images of these classes have one")
    return allocate(sizes, sizes, count)


def the_same_of_each(store: Labelled, classes: list[int], sizes: np.ndarray, per_class: int) -> np.ndarray:
    """The same number of labels for each of some classes, of these sizes: int64 [K].

    Raises:
        UsageError: fewer than one, or a class with fewer images.
    """
    if per_class < 1:
        raise UsageError(f"{per_class} labels a class are too few", hint="ask for at least 1")
    if sizes.min() < per_class:
        poorest = store.class_names[classes[int(sizes.argmin())]]
        what = f"'{poorest}' has only {sizes.min():,} labelled images, too few for {per_class:,} labels of each class"
        raise UsageError(what, hint=f"--labels {max(1, sizes.min() // 2)}/class, or another number")
    return np.full(len(classes), per_class)


def allocate(weights: np.ndarray, available: np.ndarray, count: int) -> np.ndarray:
    """Distribute `count` labels one by one, each to the class furthest below its share; to the first class on ties.

    With n_c labels so far and class weights f_c relative to the largest, the next label goes to argmax f_c − n_c / max
    n, the rule of the public MixMatch code. Classes without images left are skipped.

    Args:
        weights: [C], class sizes, or ones for equal shares.
        available: int [C], images of each class; the sum is at least `count`.
        count: number of labels.

    Returns:
        int64 [C], summing to `count`.

    >>> allocate(np.ones(3), np.array([9, 1, 9]), 6)
    array([3, 1, 2])
    """
    assert count <= np.sum(available), "more labels than images"
    shares = np.asarray(weights, np.float64) / np.max(weights)
    if count == np.sum(available):  # the same, at once
        return np.array(available, np.int64)
    given = np.zeros(len(shares), np.int64)
    for _ in range(count):
        behind = np.where(given < available, shares - given / max(given.max(), 1), -np.inf)
        given[np.argmax(behind)] += 1
    return given


def take_valid(rest: list[np.ndarray], count: int) -> np.ndarray:
    """Take `count` validation rows from the remaining rows of each class, as evenly as possible: int64, ascending."""
    left = np.array([len(rows) for rows in rest])
    if count > left.sum():
        raise UsageError(
            f"{count:,} validation images asked for, but only {left.sum():,} images of the classes are left",
            hint="ask for fewer with --valid",
        )
    held = allocate(np.ones(len(rest)), left, count)
    return np.sort(np.concatenate([rows[:n] for rows, n in zip(rest, held, strict=True)]))


def suffix(seed: int, valid: int) -> str:
    """The part of a split's name for a seed and a number of validation images that are not the default."""
    return (f"_seed{seed}" if seed != 1 else "") + (f"_valid{valid}" if valid else "")


def require_pool(unlabeled: np.ndarray) -> None:
    """Raise a UsageError if a split has no unlabelled images."""
    if not len(unlabeled):
        raise UsageError("no image is left for the unlabelled pool", hint="ask for fewer labels or validation images")


def whole(
    store: Labelled, name: str, protocol: str, seed: int, labeled: np.ndarray, valid: np.ndarray, asked: dict
) -> Split:
    """A split of all classes: every row that is neither in `labeled` nor in `valid` is unlabelled."""
    unlabeled = np.setdiff1d(np.arange(len(store.train_labels)), np.concatenate([labeled, valid]), assume_unique=True)
    return Split(
        name=name,
        protocol=protocol,
        seed=seed,
        gamma=0.0,
        labeled=labeled,
        unlabeled=unlabeled,
        valid=valid,
        test=np.arange(len(store.test_labels)),
        class_map=np.arange(len(store.class_names)),
        class_names=list(store.class_names),
        description={"protocol": protocol, **asked},
    )
