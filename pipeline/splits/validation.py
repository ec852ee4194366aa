"""Images to choose settings by: a validation set of one's own labels by default, cross-validation where they are few.

A test set that chooses the settings says too little about new images afterwards.
"""

from __future__ import annotations

import numpy as np

from pipeline.splits.draw import Labelled, Split, class_lists, suffix, whole
from stores.errors import UsageError

FEWEST_LABELS = 20  # of each class, from which some are held out by default
FEWEST, SHARE, MOST = 5, 10, 1000  # of each class; one in so many labels; of all classes
PROTOCOL = "cross-validation"


def default_valid(store: Labelled) -> int:
    """How many labelled images of one's own are held out by default: a tenth, at least five of each class.

    0 where a class has fewer than 20 labels: they are worth more in training, and so few say little.
    """
    sizes = np.bincount(store.train_labels[store.train_labels >= 0], minlength=len(store.class_names))
    if sizes.min(initial=FEWEST_LABELS) < FEWEST_LABELS:
        return 0
    return max(FEWEST * len(sizes), min(MOST, int(sizes.sum()) // SHARE))


def fold_split(store: Labelled, folds: int, fold: int) -> Split:
    """All labels but those of one fold, which are for validation; the pool is the images that came without labels.

    The folds share no image, together they are all labelled images, and each has its share of every class.

    Args:
        store: the dataset store.
        folds: their number, at least 2.
        fold: from 1; the seed of the split.

    Raises:
        UsageError: no such fold, or a class with a single label, which cannot be both trained on and held out.
    """
    lists = class_lists(store, 1)
    if not (2 <= folds <= sum(map(len, lists)) and 1 <= fold <= folds):
        raise UsageError(f"--folds {folds}: there cannot be so many folds", hint="--folds 5")
    if min(map(len, lists)) < 2:
        poorest = store.class_names[min(range(len(lists)), key=lambda label: len(lists[label]))]
        raise UsageError(f"'{poorest}' has fewer than 2 labels", "one is trained on while another is held out")
    dealt = np.concatenate(lists)  # class after class, one to each fold in turn
    held = np.arange(len(dealt)) % folds == fold - 1
    asked = {"labels": "all", "folds": folds, "valid": int(held.sum())}
    name = f"cv{folds}{suffix(fold, 0)}"
    return whole(store, name, PROTOCOL, fold, np.sort(dealt[~held]), np.sort(dealt[held]), asked)
