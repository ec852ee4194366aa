"""Open-set protocols: the counts and classes of the papers, nested sets, names, other data sets, mistakes, repair."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_splits import check, cifar10, store_of

from pipeline import api
from pipeline.check.repair import repair
from pipeline.splits.classes import ANIMALS, IMAGENET30, SUPERCLASSES
from pipeline.splits.draw import Labelled, Split
from pipeline.splits.protocols import Request, completed, draw_split
from stores import open_store
from stores.errors import UsageError

# fine labels of CIFAR-100 as the papers' code numbers them
FOREIGN_OF_80 = [8, 13, 36, 41, 47, 48, 50, 52, 56, 58, 59, 65, 69, 74, 80, 81, 85, 89, 90, 96]
FIRST_20 = [1, 4, 9, 10, 16, 28, 30, 32, 54, 55, 61, 62, 67, 70, 72, 73, 82, 91, 92, 95]
MORE_OF_50 = [0, 3, 5, 6, 7, 12, 14, 17, 18, 20, 22, 24, 25, 37, 39, 40, 42, 43, 51, 53, 57, 68, 76, 83, 84, 86, 87]
MORE_OF_50 += [88, 94, 97]
MORE_OF_55 = [23, 33, 49, 60, 71]


def cifar100() -> Labelled:
    """500 images of each class; fine classes are numbered in alphabetical order."""
    names = tuple(sorted(name for classes in SUPERCLASSES.values() for name in classes))
    return store_of(np.repeat(np.arange(100), 500), names, np.repeat(np.arange(100), 100))


def imagenet30() -> Labelled:
    names = tuple(sorted([*IMAGENET30[0], *IMAGENET30[1]]))
    return store_of(np.repeat(np.arange(30), 1300), names, np.repeat(np.arange(30), 100))


def drawn(store: Labelled, protocol: str, **asked: object) -> list[Split]:
    return [draw_split(store, request) for request in completed(store, Request(protocol=protocol, **asked))]


def sizes(store: Labelled, split: Split) -> tuple[int, int, int, int]:
    """Labelled, validation, unlabelled images, and how many of these are foreign."""
    foreign = split.class_map[store.train_labels[split.unlabeled]] < 0
    return len(split.labeled), len(split.valid), len(split.unlabeled), int(foreign.sum())


def test_openmatch_on_cifar10() -> None:
    store = cifar10()
    splits = drawn(store, "openmatch")
    assert [sizes(store, split) for split in splits] == [
        (150, 300, 49_550, 20_000),
        (300, 300, 49_400, 20_000),
        (600, 300, 49_100, 20_000),
        (2400, 300, 47_300, 20_000),
    ]
    assert [split.name for split in splits] == [f"openmatch6_{count}" for count in (150, 300, 600, 2400)]
    for split in splits:
        check(store, split)
        assert split.class_names == list(ANIMALS)
        assert split.class_map.tolist() == [-1, -1, 0, 1, 2, 3, 4, 5, -1, -1]
        for part in (split.labeled, split.valid):
            assert len(set(np.bincount(store.train_labels[part], minlength=10)[2:8])) == 1
        assert len(split.test) == 6000
        assert split.protocol == "mismatch"
    assert all(np.isin(few.labeled, more.labeled).all() for few, more in pairwise(splits))


def test_openmatch_on_cifar100() -> None:
    store = cifar100()
    splits = drawn(store, "openmatch")
    assert [sizes(store, split) for split in splits] == [
        (1375, 2750, 45_875, 22_500),
        (2750, 2750, 44_500, 22_500),
        (5500, 2750, 41_750, 22_500),
        (2000, 4000, 44_000, 10_000),
        (4000, 4000, 42_000, 10_000),
        (8000, 4000, 38_000, 10_000),
    ]
    known = [np.flatnonzero(split.class_map >= 0).tolist() for split in splits]
    assert known[0] == sorted([*FIRST_20, *MORE_OF_50, *MORE_OF_55])
    assert known[3] == sorted(set(range(100)) - set(FOREIGN_OF_80))


def test_iomatch() -> None:
    """No validation images; the method adds the labelled ones to the pool, which makes it all 50,000."""
    store = cifar10()
    assert [sizes(store, split) for split in drawn(store, "iomatch")] == [
        (24, 0, 49_976, 20_000),
        (150, 0, 49_850, 20_000),
    ]
    store = cifar100()
    splits = drawn(store, "iomatch")
    assert [(split.name, sizes(store, split)[0], sizes(store, split)[3]) for split in splits] == [
        ("iomatch20_80", 80, 40_000),
        ("iomatch20_500", 500, 40_000),
        ("iomatch50_200", 200, 25_000),
        ("iomatch50_1250", 1250, 25_000),
        ("iomatch80_320", 320, 10_000),
        ("iomatch80_2000", 2000, 10_000),
    ]
    assert np.flatnonzero(splits[0].class_map >= 0).tolist() == FIRST_20
    assert np.flatnonzero(splits[2].class_map >= 0).tolist() == sorted([*FIRST_20, *MORE_OF_50])


def test_imagenet30_from_anywhere() -> None:
    store = imagenet30()
    assert [sizes(store, split)[:3] for split in drawn(store, "openmatch")] == [
        (260, 2600, 36_140),
        (1300, 2600, 35_100),
        (2600, 2600, 33_800),
    ]
    assert [sizes(store, split)[:3] for split in drawn(store, "iomatch")] == [(260, 0, 38_740), (1300, 0, 37_700)]
    assert drawn(store, "iomatch")[0].class_names == sorted(IMAGENET30[0])


def test_known_images_stay_while_foreign_ones_are_added() -> None:
    store = cifar10()
    splits = drawn(store, "fixed-known")
    assert [sizes(store, split) for split in splits] == [
        (100, 0, 5000 + foreign, foreign) for foreign in (0, 5000, 10_000, 12_500, 15_000, 20_000, 25_000)
    ]
    assert [split.name for split in splits][2:4] == ["fixed_known5_100_share40", "fixed_known5_100_share50"]
    known = [split.unlabeled[split.class_map[store.train_labels[split.unlabeled]] >= 0] for split in splits]
    assert all(np.array_equal(one, known[0]) for one in known)
    assert all(np.isin(few.unlabeled, more.unlabeled).all() for few, more in pairwise(splits))
    assert np.bincount(store.train_labels[splits[3].unlabeled]).tolist() == [1000] * 5 + [2500] * 5
    (own,) = drawn(store, "fixed-known", share=0.125)
    assert own.name == "fixed_known5_100_share12_5"


def test_oliver_is_the_mismatch_at_its_five_levels() -> None:
    store = cifar10()
    assert [split.name for split in drawn(store, "oliver")] == [f"mismatch{level}" for level in (0, 25, 50, 75, 100)]


def test_any_data_set_by_the_names_of_its_classes() -> None:
    """Images without label are in the pool; the foreign classes of a sweep may be some of the others."""
    store = store_of(np.repeat([0, 1, 2, 3, -1], [90, 60, 50, 40, 30]), ("fox", "owl", "elk", "newt"))
    asked = {"labeled_classes": ("elk", "fox"), "labels": 20, "valid": 10}
    (even,) = drawn(store, "iomatch", labeled_classes=("elk", "fox"), per_class=3)
    assert np.bincount(store.train_labels[even.labeled]).tolist() == [3, 0, 3]
    (split,) = drawn(store, "openmatch", **asked)
    check(store, split)
    assert sizes(store, split) == (20, 10, 240, 130)
    assert np.bincount(store.train_labels[split.valid]).tolist() == [5, 0, 5]
    assert split.name.startswith("openmatch2_")
    assert split.name.endswith("_20_valid10")
    swept = drawn(store, "fixed-known", **asked, unlabeled_classes=("newt",))
    assert [sizes(store, one)[2:] for one in swept] == [(110 + n, n) for n in (0, 8, 16, 20, 24, 32, 40)]
    seeds = [drawn(store, "openmatch", **asked, seed=seed)[0] for seed in (1, 2)]
    assert seeds[1].name == f"{seeds[0].name}_seed2"
    assert not np.array_equal(seeds[0].labeled, seeds[1].labeled)


@pytest.mark.parametrize(
    ("protocol", "asked", "said"),
    [
        ("openmtch", {}, "did you mean openmatch"),
        ("openmatch", {}, "no paper divides this data set"),
        ("openmatch", {"labeled_classes": ("a", "b")}, "needs a number of labels"),
        ("openmatch", {"labeled_classes": ("a", "b"), "labels": "all"}, "a number of labels"),
        ("openmatch", {"labeled_classes": ("a",), "labels": 4}, "two known classes or more"),
        ("openmatch", {"labeled_classes": ("a", "b"), "per_class": 0}, "too few"),
        ("openmatch", {"labeled_classes": ("a", "b"), "labels": 4}, "'a' has only 20 images"),
        ("openmatch", {"labeled_classes": ("a", "b"), "labels": 4, "valid": 3}, "shared equally by 2 classes"),
        ("iomatch", {"labeled_classes": ("a", "b"), "unlabeled_classes": ("b",), "labels": 4}, "none is foreign"),
        ("iomatch", {"labeled_classes": ("a", "x"), "labels": 4}, "unknown class 'x'"),
        ("iomatch", {"labeled_classes": ("a", "b"), "labels": 4, "share": 0.5}, "--shares is of"),
        ("fixed-known", {"labeled_classes": ("a", "b"), "labels": 4, "share": 1.5}, "1.5 is no share"),
    ],
)
def test_mistakes(protocol: str, asked: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        drawn(store_of(np.repeat([0, 1, 2], 20), ("a", "b", "c")), protocol, **asked)
    assert said in str(caught.value)


def test_a_split_store_of_a_protocol(tiny: Path, tmp_path: Path) -> None:
    """Its foreign test images are those of the other classes; its arrays can be drawn again from its manifest."""
    for name in (tiny.name, "tiny_20"):
        shutil.copytree(tiny.with_name(name), tmp_path / name)
    names = open_store(tmp_path / tiny.name).class_names
    made = api.split(
        tmp_path / tiny.name, protocol="fixed-known", labeled_classes=names[:2], labels=4, shares=[0.25, 1]
    )
    assert [split.manifest["spec"]["share"] for split in made] == [0.25, 1.0]
    split = made[0]
    labels = split.dataset.test_labels
    assert set(labels[split.test]) == {0, 1}
    assert set(labels[split.foreign]) == set(range(2, len(names)))
    assert len(split.test) + len(split.foreign) == len(labels)
    (split.path / "unlabeled" / "c" / "0").write_bytes(b"no")
    assert not repair(split.path).lost
    assert np.array_equal(open_store(split.path).unlabeled, split.unlabeled)
    whole = open_store(tmp_path / "tiny_20")
    assert not len(whole.foreign)
