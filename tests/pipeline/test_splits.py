"""Splits against the public code's rule, the papers' counts, and what must hold for any labels."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.splits.draw import Labelled, Split, allocate, fold_split, label_split
from pipeline.splits.mismatch import ANIMALS, CIFAR10, LEVELS, class_split, is_cifar10, mismatch_split
from pipeline.splits.protocols import Request, draw_split, draw_standard, standard_requests
from pipeline.splits.split_stores import requests_for
from stores.errors import UsageError

SVHN = [13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659, 4948]  # training images of the digits 1 … 9, 0
SVHN_LABELS = {
    40: [7, 6, 4, 4, 4, 3, 3, 3, 3, 3],
    250: [47, 36, 29, 25, 24, 20, 19, 17, 16, 17],
    1000: [189, 144, 116, 102, 94, 78, 76, 69, 64, 68],
    4000: [756, 578, 464, 407, 376, 313, 306, 276, 254, 270],
}


def store_of(
    labels: np.ndarray,
    names: tuple[str, ...] | None = None,
    test: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    seed: int = 0,
) -> Labelled:
    """A dataset store of these labels, in the source's order, with its images in a random order."""
    source_index = np.random.default_rng(seed).permutation(len(labels))
    names = names or tuple(f"class {i}" for i in range(labels.max() + 1))
    test = np.repeat(np.arange(len(names)), 10) if test is None else test
    return SimpleNamespace(
        class_names=list(names),
        train_labels=labels[source_index],
        test_labels=test,
        source_index=source_index,
        folds=None if folds is None else np.argsort(source_index)[folds],
    )


def cifar10(per_class: int = 5000, names: tuple[str, ...] = CIFAR10) -> Labelled:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), per_class))
    return store_of(labels, names, np.random.default_rng(2).permutation(np.repeat(np.arange(10), 1000)))


def check(store: Labelled, split: Split, whole: bool = True) -> None:
    """What holds for every split: disjoint, in range, ascending; without mismatch also complete."""
    rows = np.concatenate([split.labeled, split.unlabeled, split.valid])
    assert len(np.unique(rows)) == len(rows)
    assert not len(rows) or (rows.min() >= 0 and rows.max() < len(store.train_labels))
    for part in (split.labeled, split.unlabeled, split.valid, split.test):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    assert (split.class_map[store.train_labels[split.labeled]] >= 0).all()
    assert (split.class_map[store.train_labels[split.valid]] >= 0).all()
    if whole:
        assert len(rows) == len(store.train_labels)


@pytest.mark.parametrize("count", [250, 500, 1000, 2000, 4000])
def test_cifar10_gets_equal_shares(count: int) -> None:
    store = cifar10()
    split = label_split(store, count)
    check(store, split)
    assert np.bincount(store.train_labels[split.labeled]).tolist() == [count // 10] * 10
    assert len(split.unlabeled) == 50_000 - count
    assert len(split.test) == 10_000
    assert (split.name, split.protocol, split.seed, split.gamma) == (str(count), "labels", 1, 0.0)
    assert split.class_map.tolist() == list(range(10))


@pytest.mark.parametrize(("count", "expected"), SVHN_LABELS.items())
def test_svhn_gets_shares_of_its_class_sizes(count: int, expected: list[int]) -> None:
    sizes = np.array(SVHN)
    assert allocate(sizes, sizes, count).tolist() == expected
    by_digit = np.roll(sizes, 1)  # the same with the classes as digits 0 … 9
    assert np.roll(allocate(by_digit, by_digit, count), -1).tolist() == expected


def test_the_labelled_images_are_those_of_the_public_code() -> None:
    """Written down again as that code does it: lists, the global generator, one label at a time."""
    rng = np.random.default_rng(3)
    labels = rng.choice(4, 600, p=[0.4, 0.3, 0.2, 0.1])
    lists = [[i for i, label in enumerate(labels) if label == c] for c in range(4)]
    sizes = np.array([len(members) for members in lists], np.float64)
    state = np.random.get_state()
    np.random.seed(3)
    for members in lists:
        np.random.shuffle(members)
    np.random.set_state(state)
    taken, chosen = np.zeros(4, np.int64), []
    for _ in range(50):
        c = int(np.argmax(sizes / sizes.max() - taken / max(taken.max(), 1)))
        chosen.append(lists[c][taken[c]])
        taken[c] += 1
    for order in (0, 1):
        store = store_of(labels, seed=order)
        split = label_split(store, 50, seed=3)
        assert sorted(store.source_index[split.labeled].tolist()) == sorted(chosen)


def test_seed_zero_takes_the_first_images() -> None:
    store = store_of(np.tile([0, 1, 2], 20))
    assert sorted(store.source_index[label_split(store, 6, seed=0).labeled].tolist()) == [0, 1, 2, 3, 4, 5]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_labels_give_a_sound_split(data: st.DataObject) -> None:
    labels = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=12, max_size=80)) + [0, 1, 2, 3])
    known = int((labels >= 0).sum())
    valid = data.draw(st.integers(0, 3))
    count = data.draw(st.integers(4, max(4, known - valid - 1)))
    seed = data.draw(st.integers(0, 5))
    store = store_of(labels, seed=data.draw(st.integers(0, 3)))
    if count + valid >= len(labels) or count + valid > known:
        with pytest.raises(UsageError):
            label_split(store, count, seed=seed, valid=valid)
        return
    split, again = label_split(store, count, seed=seed, valid=valid), label_split(store, count, seed=seed, valid=valid)
    check(store, split)
    assert (len(split.labeled), len(split.valid)) == (count, valid)
    assert np.array_equal(split.labeled, again.labeled)
    assert np.array_equal(split.valid, again.valid)
    assert np.array_equal(split.labeled, label_split(store, count, seed=seed).labeled)  # whatever is held out
    assert (store.train_labels[split.valid] >= 0).all()


def test_seeds_differ_and_small_splits_lie_in_large_ones() -> None:
    store = cifar10(500)
    splits = [label_split(store, 250, seed=seed) for seed in range(1, 6)]
    assert len({split.labeled.tobytes() for split in splits}) == 5
    assert np.isin(label_split(store, 100).labeled, splits[0].labeled).all()


def test_validation_is_even_over_the_classes_and_leaves_the_pool() -> None:
    store = store_of(np.repeat([0, 1, 2, -1], [400, 300, 20, 1000]))
    split = label_split(store, 72, valid=100)
    check(store, split)
    assert np.bincount(store.train_labels[split.labeled]).tolist() == [40, 30, 2]
    assert np.bincount(store.train_labels[split.valid]).tolist() == [41, 41, 18]
    assert len(split.unlabeled) == 1720 - 172
    assert split.name == "72_valid100"
    assert split.description == {"protocol": "labels", "labels": 72, "valid": 100}


@pytest.mark.parametrize(
    ("percent", "pool", "gamma", "overlap"),
    [
        (0, {4, 5, 6, 7}, 0.0, 1.0),
        (25, {0, 5, 6, 7}, 0.2, 0.75),
        (50, {0, 1, 6, 7}, 0.4, 0.5),
        (75, {0, 1, 7, 8}, 0.6, 0.25),
        (100, {0, 1, 8, 9}, 0.85, 0.0),
    ],
)
def test_mismatch_levels(percent: int, pool: set[int], gamma: float, overlap: float) -> None:
    store = cifar10()
    split = mismatch_split(store, percent)
    check(store, split, whole=False)
    labeled, unlabeled = store.train_labels[split.labeled], store.train_labels[split.unlabeled]
    assert np.bincount(labeled, minlength=10).tolist() == [0, 0] + [400] * 6 + [0, 0]
    assert set(unlabeled.tolist()) == pool
    assert len(unlabeled) == 18_400
    assert np.isin(unlabeled, labeled).mean() == overlap
    assert len(split.test) == 6000
    assert set(store.test_labels[split.test].tolist()) == {2, 3, 4, 5, 6, 7}
    assert split.class_map.tolist() == [-1, -1, 0, 1, 2, 3, 4, 5, -1, -1]
    assert split.class_names == list(ANIMALS)
    assert (split.gamma, split.name, split.protocol) == (gamma, f"mismatch{percent}", "mismatch")


def test_mismatch_is_the_4000_label_split_without_four_classes() -> None:
    store = cifar10()
    all_classes = label_split(store, 4000).labeled
    splits = [mismatch_split(store, percent) for percent in LEVELS]
    for split in splits:
        assert np.array_equal(split.labeled, splits[0].labeled)
        assert np.isin(split.labeled, all_classes).all()
        assert not np.isin(split.unlabeled, all_classes).any()
    # A class is the same images at every level that has it.
    for low, high in pairwise(splits):
        assert np.isin(low.unlabeled, high.unlabeled).mean() == 0.75


def test_mismatch_keeps_its_pool_s_size_with_validation() -> None:
    store = cifar10(600)
    splits = [mismatch_split(store, percent, per_class=40, valid=100, seed=2) for percent in LEVELS]
    assert {len(split.unlabeled) for split in splits} == {4 * (600 - 40 - 17)}
    for percent, split in zip(LEVELS, splits, strict=True):
        check(store, split, whole=False)
        assert len(split.valid) == 100
        assert np.bincount(store.train_labels[split.valid], minlength=10)[2:8].tolist() == [17] * 4 + [16] * 2
        assert split.name == f"mismatch{percent}_240_seed2_valid100"


def test_classes_by_name_make_the_standard_protocol() -> None:
    store = cifar10()
    standard = mismatch_split(store, 75)
    by_name = class_split(store, ["horse", "Bird", "cat", "deer", "dog", "frog"], LEVELS[75][0])
    for part in ("labeled", "unlabeled", "valid", "test", "class_map"):
        assert np.array_equal(getattr(by_name, part), getattr(standard, part))
    assert by_name.gamma == 0.6
    assert class_split(store, ANIMALS, LEVELS[75][0], labels=2400).labeled.tolist() == standard.labeled.tolist()


def test_classes_by_name_of_another_dataset() -> None:
    labels = np.repeat([0, 1, 2, 3, -1], [90, 60, 50, 40, 30])
    store = store_of(labels, ("fox", "owl", "Owl", "elk"))
    split = class_split(store, ["elk", "Owl"], ["owl", "Owl"], labels=9)
    check(store, split, whole=False)
    assert np.bincount(store.train_labels[split.labeled], minlength=4).tolist() == [0, 0, 5, 4]
    assert np.bincount(store.train_labels[split.unlabeled], minlength=4).tolist() == [0, 55, 45, 0]
    assert split.class_map.tolist() == [-1, -1, 0, 1]
    assert split.class_names == ["Owl", "elk"]
    assert split.gamma == pytest.approx(np.interp(60 / 110, [0.5, 0.75], [0.4, 0.6]), abs=1e-4)
    everything = class_split(store, ["elk", "Owl"], labels=9)
    assert np.bincount(store.train_labels[everything.unlabeled] + 1).tolist() == [30, 85, 55, 45, 35]
    assert everything.name != split.name
    assert everything.description["unlabeled_classes"] is None


def test_folds_are_the_labelled_images() -> None:
    labels = np.concatenate([np.tile(np.arange(10), 50), np.full(1000, -1)])
    folds = np.random.default_rng(0).permuted(np.tile(np.arange(500), (10, 1)), axis=1)[:, :100]
    store = store_of(labels, folds=folds)
    for fold in (1, 5):
        split = fold_split(store, fold, valid=20)
        check(store, split)
        assert sorted(store.source_index[split.labeled]) == sorted(folds[fold])
        assert len(split.unlabeled) == 1500 - 120
        assert (split.name, split.protocol, split.seed) == (f"100_fold{fold}_valid20", "folds", fold)
    assert np.array_equal(draw_split(store, Request(labels=100, seed=5)).labeled, split.labeled)
    assert draw_split(store, Request(labels=200)).protocol == "labels"
    with pytest.raises(UsageError, match="no fold 10"):
        fold_split(store, 10)
    with pytest.raises(UsageError, match="no predefined folds"):
        fold_split(cifar10(10))


def test_labels_of_each_class() -> None:
    store = store_of(np.repeat([0, 1, 2, -1], [50, 20, 9, 6]))
    split = draw_split(store, Request(per_class=4, seed=2, valid=3))
    assert split.name == "4perclass_seed2_valid3"
    assert np.bincount(store.train_labels[split.labeled]).tolist() == [4, 4, 4]
    assert len(split.labeled) + len(split.valid) + len(split.unlabeled) == 85
    for each, why in ((10, "'class 2' has only 9 labelled images"), (0, "too few")):
        with pytest.raises(UsageError, match=why):
            draw_split(store, Request(per_class=each))
    named = draw_split(store, Request(per_class=5, labeled_classes=("class 0", "class 1")))
    assert np.bincount(store.train_labels[named.labeled]).tolist() == [5, 5]
    with pytest.raises(UsageError, match="too few for 400 labels of each class") as caught:
        draw_split(store, Request(labeled_classes=("class 0", "class 2")))
    assert "asked" not in caught.value.what
    assert caught.value.hint.startswith("--labels 4/class")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("250,4000", [(250, None), (4000, None)]),
        ("4/class", [(None, 4)]),
        ("all, 4 / class,25 per class", None),
        ("all, 4 / class,30", [("all", None), (None, 4), (30, None)]),
        ("4/cat", None),
        ("many", None),
    ],
)
def test_numbers_of_labels_as_they_are_written(text, labels) -> None:
    if labels is None:
        with pytest.raises(UsageError, match="not a number of labels") as caught:
            requests_for(text, None, None, None, 1, 0)
        assert "4/class" in caught.value.hint
    else:
        requests = requests_for(text, None, None, None, 1, 0)
        assert [(request.labels, request.per_class) for request in requests] == labels


def test_standard_splits() -> None:
    splits, left_out = draw_standard(cifar10(), "cifar10")
    levels = [f"mismatch{percent}" for percent in (0, 25, 50, 75, 100)]
    assert [split.name for split in splits] == ["250", "500", "1000", "2000", "4000", *levels]
    assert not left_out
    digits = store_of(np.tile(np.arange(10), 150))
    assert [split.name for split in draw_standard(digits, "digits", seed=3)[0]] == ["20_seed3", "50_seed3", "100_seed3"]
    other = store_of(np.tile(np.arange(3), 60))
    assert [request.labels for request in standard_requests(other, None)] == ["all", 12, 75]
    assert [request.labels for request in standard_requests(store_of(np.tile(np.arange(3), 3)), None)] == ["all", 3]


def test_standard_splits_that_do_not_fit_are_left_out_and_named() -> None:
    splits, left_out = draw_standard(cifar10(100), "cifar10")
    assert [split.name for split in splits] == ["250", "500"]
    assert [request.labels or request.mismatch for request, _ in left_out] == [1000, 2000, 4000, 0, 25, 50, 75, 100]
    assert all(reason for _, reason in left_out)


def test_cifar10_is_known_by_its_class_names() -> None:
    assert is_cifar10([name.upper() for name in reversed(CIFAR10)])
    assert not is_cifar10([*CIFAR10[:9], "lorry"])
    store = cifar10(600, tuple(reversed(CIFAR10)))
    split = mismatch_split(store, 100, per_class=10)
    assert split.class_names == list(reversed(ANIMALS))
    assert {store.class_names[i] for i in store.train_labels[split.unlabeled]} == set(LEVELS[100][0])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(labels=9), "too few"),
        (Request(labels=-1), "too few"),
        (Request(labels=5001), "only 5,000"),
        (Request(labels=5000), "no image is left"),
        (Request(labels=4000, valid=1001), "validation"),
        (Request(labels=4000, valid=1000), "no image is left"),
        (Request(labels=100, valid=-1), "negative"),
        (Request(labels=100, seed=-1), "not a seed"),
        (Request(), "number of labels"),
        (Request(mismatch=30), "no standard mismatch"),
        (Request(mismatch=50, labels=100), "multiple of 6"),
        (Request(mismatch=50, labels=0), "too few"),
        (Request(mismatch=50, labels=6 * 501), "only 500"),
        (Request(mismatch=0, labels=6 * 500), "no image is left"),
        (Request(labeled_classes=("cat", "bord")), "did you mean bird"),
        (Request(labeled_classes=("cat", "dog"), unlabeled_classes=("lorry",)), "unknown class"),
        (Request(labeled_classes=("cat", "cat")), "at least two"),
        (Request(labeled_classes=("cat", "dog"), labels=1), "too few"),
        (Request(labeled_classes=("cat", "dog"), labels=1001), "only 1,000"),
        (Request(labeled_classes=("cat", "dog"), unlabeled_classes=("cat",), labels=1000), "no image is left"),
        (Request(unlabeled_classes=("cat",)), "needs --labeled-classes"),
    ],
)
def test_mistakes_are_one_clear_error(request_: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        draw_split(cifar10(500), request_)


def test_a_class_is_meant_by_its_very_name_before_any_other() -> None:
    store = store_of(np.arange(80) % 4, ("Cat", "cat", " cat", "a, b"))
    for asked, meant in (("Cat", "Cat"), ("cat", "cat"), (" cat", " cat"), ("A, B ", "a, b")):
        other = "Cat" if meant != "Cat" else "a, b"
        split = draw_split(store, Request(labeled_classes=(asked, other), labels=4))
        assert set(split.class_names) == {meant, other}
    with pytest.raises(UsageError, match="'CAT' may be several classes"):
        draw_split(store, Request(labeled_classes=("CAT", "a, b"), labels=4))
    with pytest.raises(UsageError) as caught:
        draw_split(store, Request(labeled_classes=("a", "b"), labels=4))
    assert "in quotes" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat,dog", ("cat", "dog")),
        (" cat, dog,", ("cat", "dog")),
        ('"a, b",dog', ("a, b", "dog")),
        ('cat, " dog "', ("cat", " dog ")),
        ('"say ""hi""",it\'s', ('say "hi"', "it's")),
        ('"two\nlines",b', ("two\nlines", "b")),
    ],
)
def test_a_list_of_class_names_may_quote_them(text: str, names: tuple[str, ...]) -> None:
    (request,) = requests_for(None, None, text, None, 1, 0)
    assert request.labeled_classes == names


def test_mismatch_of_another_dataset_names_the_way_out() -> None:
    with pytest.raises(UsageError, match="--labeled-classes"):
        mismatch_split(store_of(np.tile(np.arange(10), 50)), 50)


def test_all_labels_leaves_the_images_that_came_without_any() -> None:
    store = store_of(np.array([0, 1, -1, 0, 1, -1, 1, -1]))
    known, unknown = np.flatnonzero(store.train_labels >= 0), np.flatnonzero(store.train_labels < 0)
    split = draw_split(store, Request(labels="all"))
    assert split.name == "all"
    assert split.labeled.tolist() == known.tolist()
    assert split.unlabeled.tolist() == unknown.tolist()
    held = draw_split(store, Request(labels="all", valid=2))
    assert held.name == "all_valid2"
    assert sorted([*held.labeled, *held.valid]) == known.tolist()
    assert held.unlabeled.tolist() == unknown.tolist()
    assert draw_standard(store, None)[0][0].name == "all"
    whole = draw_split(store_of(np.array([0, 1, 0, 1])), Request(labels="all"))
    assert (whole.labeled.tolist(), whole.unlabeled.tolist()) == ([0, 1, 2, 3], [])
    with pytest.raises(UsageError, match="without a mismatch"):
        draw_split(store, Request(labels="all", labeled_classes=("class 0", "class 1")))
