"""Validation sets of one's own labels: held out by default where they suffice, in turn where they are few."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_splits import check, store_of

from pipeline import api
from pipeline.splits.protocols import Request, completed, draw_again, draw_split
from pipeline.splits.split_stores import requests_for
from pipeline.splits.validation import default_valid
from stores import open_store
from stores.errors import UsageError


@pytest.mark.parametrize(
    ("each", "held"),
    [((20, 20, 20), 15), ((19, 500), 0), ((20, 500), 52), ((100, 100), 20), ((9000, 9000), 1000), ((30, 30, 0), 0)],
)
def test_a_tenth_of_the_labels_where_every_class_has_enough(each: tuple[int, ...], held: int) -> None:
    names = tuple(f"class {i}" for i in range(len(each)))
    assert default_valid(store_of(np.repeat(np.arange(len(each)), each), names)) == held


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.integers(2, 6), st.integers(0, 20))
def test_folds_share_no_image_and_are_all_labels(each: list[int], folds: int, unlabeled: int) -> None:
    folds = min(folds, sum(each))
    labels = np.concatenate([np.repeat(np.arange(len(each)), each), np.full(unlabeled, -1)])
    store = store_of(labels, tuple(f"class {i}" for i in range(len(each))))
    splits = [draw_split(store, one) for one in completed(store, Request(folds=folds))]
    assert [split.seed for split in splits] == list(range(1, folds + 1))
    everything = np.concatenate([split.valid for split in splits])
    assert len(everything) == len(np.unique(everything)) == sum(each)
    sizes = [len(split.valid) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        check(store, split)
        of_class = np.bincount(store.train_labels[split.valid], minlength=len(each))
        assert (np.abs(of_class - np.array(each) / folds) < 1).all(), "each its share of every class"
        assert np.array_equal(split.unlabeled, np.flatnonzero(store.train_labels < 0))
        content = {"protocol": split.protocol, "seed": split.seed, "spec": split.description}
        (again,) = draw_again(store, content | {"counts": {"unlabeled": unlabeled}})
        assert np.array_equal(again.labeled, split.labeled), "repair draws it again"


def test_what_cannot_be_divided() -> None:
    with pytest.raises(UsageError, match="'class 1' has fewer than 2 labels"):
        draw_split(store_of(np.array([0, 0, 0, 1])), Request(folds=2))
    with pytest.raises(UsageError, match="--folds 9"):
        draw_split(store_of(np.array([0, 0, 1, 1])), Request(folds=9))
    for asked in ({"labels": "40"}, {"mismatch": "50"}, {"valid": 3}):
        options: dict[str, Any] = {"labels": None, "mismatch": None, "valid": 0} | asked
        with pytest.raises(UsageError, match="--folds"):
            requests_for(options["labels"], options["mismatch"], None, None, 1, options["valid"], folds=5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.npz"
    labels = np.concatenate([np.repeat(np.arange(2), 30), np.full(10, -1)])
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), np.uint8), labels=labels)
    return path


def test_splits_of_own_images_have_validation_images_and_keep_their_names(images: Path, tmp_path: Path) -> None:
    built = api.build("arrays", images, copies=1, root=tmp_path)
    assert [split.name for split in built.splits] == ["own_all", "own_8"]
    known = int((built.store.train_labels >= 0).sum())
    for split in built.splits:
        assert len(split.valid) == 10
        assert np.bincount(split.train_labels[split.valid]).tolist() == [5, 5]
    assert len(built.splits[0].labeled) == known - 10
    again = api.build("arrays", images, copies=1, root=tmp_path)
    assert [split.fingerprint for split in again.splits] == [split.fingerprint for split in built.splits]
    without = api.build("arrays", images, copies=1, root=tmp_path / "without", valid=0)
    assert [len(split.valid) for split in without.splits] == [0, 0]
    assert len(without.splits[0].labeled) == known


def test_folds_on_the_command_line(images: Path, tmp_path: Path, command: Callable[[str], str]) -> None:
    said = command(f"build arrays {images} --copies 1 --root {tmp_path} --name x")
    assert "validation: 10 labelled images of each split, to choose settings by" in said
    out = command(f"split {tmp_path / 'x'} --folds 3 --json")
    assert [Path(path).name for path in json.loads(out)] == ["x_cv3", "x_cv3_seed2", "x_cv3_seed3"]
    assert open_store(tmp_path / "x_cv3_seed2").protocol == "cross-validation"
    command(f"verify {tmp_path / 'x_cv3'}")
