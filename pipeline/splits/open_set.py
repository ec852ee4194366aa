"""Open-set protocols: the pool holds all classes, of which some are known; tests tell known from foreign images.

openmatch    Saito, Kim & Saenko (2021): n labels and 50 validation images of each known class, all else is the pool
iomatch      Li et al. (2023): n labels of each known class, all else is the pool, no validation images
fixed-known  He et al. (2025, arXiv:2503.00884): the pool's known images stay the same, a share r of the foreign ones is
             added to them

Each class's images are permuted once, and all sets are slices of that permutation, so that smaller ones lie in larger
ones. The known classes are those of the papers for CIFAR-10, CIFAR-100 and ImageNet-30, and for others given by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from pipeline.splits.classes import ANIMALS, CIFAR10, IMAGENET30, SUPERCLASSES
from pipeline.splits.draw import Labelled, Split, class_lists, in_proportion, require_pool, suffix
from pipeline.splits.mismatch import classes_of, suggested_gamma
from stores.errors import UsageError

SHARES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)  # of the foreign images, of fixed-known
KNOWN_UNLABELED = 1000  # of each known class, at most, of fixed-known
PROTOCOLS = {"openmatch": 50, "iomatch": 0, "fixed-known": 0}  # validation images of each known class


@dataclass(frozen=True)
class Published:
    """How a paper divides a data set.

    Attributes:
        known: the known classes.
        labels: numbers of labels of each.
        valid: validation images of each.
    """

    known: tuple[str, ...]
    labels: tuple[int, ...]
    valid: int = 0


def published(class_names: Sequence[str], protocol: str) -> list[Published]:
    """What papers made of a data set, which is known by its classes; [] of others."""
    names = {name.lower() for name in class_names}
    if names == set(CIFAR10):
        return {
            "openmatch": [Published(ANIMALS, (25, 50, 100, 400), 50)],
            "iomatch": [Published(ANIMALS, (4, 25))],
            "fixed-known": [Published(CIFAR10[:5], (20,))],
        }[protocol]
    if names == {name for classes in SUPERCLASSES.values() for name in classes}:
        first = {n: tuple(name for some in list(SUPERCLASSES.values())[:n] for name in some) for n in (4, 10, 11, 16)}
        return {
            "openmatch": [Published(first[n], (25, 50, 100), 50) for n in (11, 16)],
            "iomatch": [Published(first[n], (4, 25)) for n in (4, 10, 16)],
            "fixed-known": [],
        }[protocol]
    known, foreign = IMAGENET30
    if names == {*known, *foreign}:
        return {
            "openmatch": [Published(known, (13, 65, 130), 130)],
            "iomatch": [Published(known, (13, 65))],
            "fixed-known": [],
        }[protocol]
    return []


def open_split(
    store: Labelled,
    protocol: str,
    known: Sequence[str],
    labels: int,
    *,
    foreign: Sequence[str] | None = None,
    share: float | None = None,
    seed: int = 1,
    valid: int = 0,
) -> Split:
    """A split of one of these protocols.

    Args:
        store: the dataset store.
        protocol: as above.
        known: at least two class names; they become training classes 0, 1, … in the order of the dataset.
        labels: number of labelled images, as many of each class or, where that cannot be, in proportion to their sizes.
        foreign: names of the pool's foreign classes; None: all others, and images without label but for fixed-known.
        share: r of fixed-known; None: all foreign images.
        seed: of the draw.
        valid: number of validation images, as many of each known class.

    Raises:
        UsageError: an unknown class, fewer than two known ones, one that is foreign too, too few images, no such share.
    """
    names, lists = store.class_names, class_lists(store, seed)
    trained = classes_of(store, known)
    others = [label for label in range(len(names)) if label not in trained]
    strange = others if foreign is None else classes_of(store, foreign)
    if len(trained) < 2 or set(trained) & set(strange):
        raise UsageError("there must be two known classes or more, of which none is foreign", hint="--labeled-classes")
    if share is not None and not 0 <= share <= 1:
        raise UsageError(f"{share:g} is no share of the foreign images", hint="--shares 0,0.5,1")
    if valid % len(trained):
        raise UsageError(f"{valid} validation images cannot be shared equally by {len(trained)} classes")
    each, sizes = valid // len(trained), np.array([len(lists[label]) for label in trained])
    even, rest = divmod(labels, len(trained))
    taken = in_proportion(sizes, labels) if rest or not even else np.full(len(trained), even)
    if (taken + each > sizes).any():
        poorest = int((sizes - taken).argmin())
        what = f"'{names[trained[poorest]]}' has only {sizes[poorest]} images"
        raise UsageError(what, f"{taken[poorest]} are to be labelled, {each} for validation", "--valid, --labels")

    ends = [(lists[label], n, n + each) for label, n in zip(trained, taken.tolist(), strict=True)]
    most = KNOWN_UNLABELED if protocol == "fixed-known" else None
    pool = [rows[end:][:most] for rows, _, end in ends]
    added = [lists[label][: round((1 if share is None else share) * len(lists[label]))] for label in strange]
    if protocol != "fixed-known" and foreign is None:
        added.append(np.flatnonzero(store.train_labels < 0))
    unlabeled = np.sort(np.concatenate([*pool, *added]))
    require_pool(unlabeled)
    class_map = np.full(len(names), -1)
    class_map[trained] = np.arange(len(trained))
    return Split(
        name=_name(store, protocol, trained, strange, int(taken.sum()), share, each) + suffix(seed, 0),
        protocol="mismatch",
        seed=seed,
        gamma=suggested_gamma(100 * sum(map(len, added)) / len(unlabeled)),
        labeled=np.sort(np.concatenate([rows[:n] for rows, n, _ in ends])),
        unlabeled=unlabeled,
        valid=np.sort(np.concatenate([rows[n:end] for rows, n, end in ends])),
        test=np.flatnonzero(np.isin(store.test_labels, trained)),
        class_map=class_map,
        class_names=[names[label] for label in trained],
        description={
            "protocol": "mismatch",
            "open_set": protocol,
            "labels": int(taken.sum()),
            "labeled_classes": [names[label] for label in trained],
            "unlabeled_classes": None if foreign is None else [names[label] for label in strange],
            "share": share,
            "valid": valid,
        },
    )


def _name(
    store: Labelled,
    protocol: str,
    trained: list[int],
    strange: list[int],
    labels: int,
    share: float | None,
    valid: int,
) -> str:
    """`openmatch6_300`; four digits stand for classes that are no paper's: `openmatch3_5f1a_30_valid10_share40`."""
    papers = published(store.class_names, protocol)
    same = [paper for paper in papers if classes_of(store, paper.known) == trained]
    usual = bool(same) and len(trained) + len(strange) == len(store.class_names)
    digest = "" if usual else "_" + blake2b(repr((trained, strange)).encode(), digest_size=2).hexdigest()
    held = "" if valid == (same[0].valid if same else PROTOCOLS[protocol]) else f"_valid{valid * len(trained)}"
    percent = "" if share is None else f"_share{100 * share:g}".replace(".", "_")
    return f"{protocol.replace('-', '_')}{len(trained)}{digest}_{labels}{held}{percent}"
