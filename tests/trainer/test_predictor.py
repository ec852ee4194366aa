"""What a method's hook sees: outputs for images of a store, all of them in chunks or a bounded sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rounding import assert_same

from networks.build import build_model
from trainer.augment.flip_shift import scale
from trainer.contract import Head
from trainer.evaluation import predictor
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictor import PoolPredictor
from trainer.functional import ops

OUT = Head("out", lambda classes, features: [2 * classes], bias=False)


def predictor_of(store: Any, rows: np.ndarray | None = None) -> PoolPredictor:
    model = build_model("wrn-10-1", store.num_classes, heads=[OUT])
    rows = np.sort(store.unlabeled) if rows is None else rows
    return PoolPredictor(store, rows, Evaluator(store, model, torch.device("cpu"), bf16=False), steps=9)


def network(seen: PoolPredictor) -> Any:
    return seen.evaluator.model


def test_outputs_are_the_networks(store: Any) -> None:
    seen = predictor_of(store)
    ((positions, out),) = seen.unlabeled("features", "classes", "out")
    assert (positions == np.arange(28)).all()
    images = torch.from_numpy(store.dataset.train_images.values[np.sort(store.unlabeled)])
    with torch.no_grad():
        expected = network(seen)(scale(images), heads=("features", "classes", "out"))
    assert {name: tuple(values.shape) for name, values in out.items()} == {
        "features": (28, 64),
        "classes": (28, 3),
        "out": (28, 6),
    }
    for name, values in out.items():
        assert_same(values, expected[name], name)


def test_every_image_once_in_the_order_of_the_index_array(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "BATCH", 10)
    rows = np.random.default_rng(0).permutation(np.sort(store.unlabeled))
    seen = predictor_of(store, rows)
    chunks = list(seen.unlabeled("classes"))
    assert [len(positions) for positions, _ in chunks] == [10, 10, 8]
    assert (np.concatenate([positions for positions, _ in chunks]) == np.arange(28)).all()
    with torch.no_grad():
        expected = network(seen)(scale(torch.from_numpy(store.dataset.train_images.values[rows])))
    assert_same(ops.concatenate(chunks)["classes"], expected, roundings=64)
    for images, rows in ((seen.labeled, store.labeled), (seen.valid, store.valid)):
        ((positions, out),) = images("classes")
        assert (positions == np.arange(6)).all()
        with torch.no_grad():
            expected = network(seen)(scale(torch.from_numpy(store.dataset.train_images.values[rows])))
        assert_same(out["classes"], expected, roundings=64)


def test_a_sample_is_spread_evenly_and_read_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, read, images = predictor_of(store), [], store.dataset.train_images
    whole = images.read
    monkeypatch.setattr(images, "read", lambda rows: read.append(rows) or whole(rows))
    for _ in range(3):
        ((positions, _),) = seen.unlabeled("classes", most=5)
        assert positions.tolist() == [0, 6, 13, 20, 27]
    assert [rows.tolist() for rows in read] == [np.sort(store.unlabeled)[[0, 6, 13, 20, 27]].tolist()]
    ((positions, _),) = seen.unlabeled("classes", most=1000)
    assert len(positions) == 28


def test_a_sample_can_leave_out_what_is_labelled(store: Any) -> None:
    rows = np.union1d(store.unlabeled, store.labeled)
    ((positions, _),) = predictor_of(store, rows).unlabeled("classes", most=1000, without_labeled=True)
    assert (np.sort(rows[positions]) == np.sort(store.unlabeled)).all()
    ((positions, _),) = predictor_of(store, rows).unlabeled("classes", most=1000)
    assert len(positions) == len(rows)


def test_a_sample_of_large_images_is_smaller(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "MEMORY", 10 * store.dataset.train_images.values[0].nbytes)
    ((positions, _),) = predictor_of(store).unlabeled("classes", most=1000)
    assert len(positions) == 10


def test_no_images_give_an_empty_chunk(store: Any) -> None:
    seen = predictor_of(store, np.empty(0, np.int64))
    for most in (None, 5):
        ((positions, out),) = seen.unlabeled("features", "classes", most=most)
        assert len(positions) == len(out["features"]) == len(out["classes"]) == 0
