"""Evaluation: the three numbers, the confusion matrix, and which weights are looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from networks.build import build_model
from stores.errors import StoreError
from trainer.ema import Ema
from trainer.evaluation.evaluator import Evaluator, error, per_class_error, summary

CPU = torch.device("cpu")


def history(errors, valid=None):
    entries = [{"step": 10 * (i + 1), "test_error": e} for i, e in enumerate(errors)]
    for entry, value in zip(entries, valid or [], strict=False):
        entry["valid_error"] = value
    return entries


def test_the_median_is_of_the_last_20_evaluations():
    assert summary(history(list(range(1, 21))))["error_median20"] == 10.5
    result = summary(history([99] * 5 + list(range(1, 21))))
    assert (result["error_last"], result["error_median20"], result["median_of"], result["evaluations"]) == (
        20,
        10.5,
        20,
        25,
    )
    short = summary(history([3, 1, 2]))
    assert (short["error_median20"], short["median_of"]) == (2, 3)


def test_the_best_by_validation_is_the_first_with_the_lowest_validation_error():
    result = summary(history([5, 4, 3, 2], valid=[9, 7, 7, 8]))
    assert (result["error_best_by_valid"], result["best_step"]) == (4, 20)
    assert summary(history([5, 4]))["error_best_by_valid"] is None


@given(st.lists(st.floats(0, 100), min_size=20, max_size=30), st.data())
def test_one_outlier_moves_the_median_by_at_most_one_rank(errors, data):
    moved = data.draw(st.integers(len(errors) - 20, len(errors) - 1))
    last = sorted(errors[-20:])
    changed = summary(history([*errors[:moved], 1e9, *errors[moved + 1 :]]))["error_median20"]
    assert last[8] <= changed <= last[11]


def test_error_and_error_per_class_of_a_confusion_matrix():
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 4]])
    assert error(confusion) == pytest.approx(30)
    per_class = per_class_error(confusion, ["a", "b", "c"])
    assert per_class == {"a": pytest.approx(25), "b": None, "c": pytest.approx(100 / 3)}


class Brightest(nn.Module):
    """Which of the columns 0, 3, 6 is brightest, plus `shift` (a parameter) plus `offset` (a buffer), modulo 3."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        brightest = x.mean((1, 2))[:, [0, 3, 6]].argmax(1)
        said = (brightest + self.shift.round().long() + self.offset.round().long()) % 3
        return nn.functional.one_hot(said, 3).float()


def test_averaged_weights_and_live_buffers_are_evaluated(store, monkeypatch):
    monkeypatch.setattr("trainer.evaluation.evaluator.BATCH", 7)  # 30 images: a short last batch
    model = Brightest().train()
    ema = Ema(model, 0.999)
    evaluator = Evaluator(store, model, CPU, bf16=False)
    errors, confusion = evaluator.run(ema)
    assert errors == {"test_error": 0, "valid_error": 0}
    assert torch.equal(confusion, 10 * torch.eye(3, dtype=torch.int64))
    with torch.no_grad():
        model.shift.fill_(1)  # the live weight alone: the average is still 0
    assert evaluator.run(ema)[0]["test_error"] == 0
    model.offset.fill_(1)  # a live buffer counts at once
    errors, confusion = evaluator.run(ema)
    assert errors == {"test_error": 100, "valid_error": 100}
    assert torch.equal(confusion, 10 * torch.eye(3, dtype=torch.int64).roll(1, dims=1))
    assert model.training
    assert model.shift == 1


def test_test_images_of_no_training_class_do_not_count(make_store):
    store = make_store(ood=(2,))
    store.valid = np.empty(0, np.int64)
    model = build_model("wrn-10-1", 2)
    errors, confusion = Evaluator(store, model, CPU, bf16=False).run(Ema(model, 0.9))
    assert confusion.sum() == 20
    assert "valid_error" not in errors


def test_a_store_without_test_images_is_refused(store):
    store.test = np.empty(0, np.int64)
    with pytest.raises(StoreError, match="no test images"):
        Evaluator(store, nn.Identity(), CPU, bf16=False)
