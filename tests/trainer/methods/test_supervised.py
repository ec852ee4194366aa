"""The supervised baseline: smoothed labels, MixUp with the reversed batch, its draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from method_batches import SIZES, Linear
from torch import nn

from trainer.contract import Batch, Learner, Losses, Sizes
from trainer.methods import supervised


def supervised_step(
    model: nn.Module, settings: supervised.Settings, lam: list[float] | None = None
) -> tuple[Losses, Batch]:
    torch.manual_seed(1)
    draws = {} if lam is None else {"lam": torch.tensor(lam, dtype=torch.float64)}
    batch = Batch(torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 3]), draws=draws)
    return supervised.loss(Learner(model), batch, settings), batch


def test_mean_cross_entropy_with_smoothed_labels() -> None:
    model = Linear()
    for smoothing in (0.0, 0.1):
        losses, batch = supervised_step(model, supervised.Settings(smoothing=smoothing))
        expected = nn.functional.cross_entropy(model(batch.x), batch.y, label_smoothing=smoothing)
        assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
        assert losses.metrics["loss_x"].item() == losses.total.item()
        assert losses.keep_u is None


def test_mixup_pairs_the_batch_with_its_reverse() -> None:
    model, lam = Linear(), [0.9, 0.8, 0.7, 0.6]
    losses, batch = supervised_step(model, supervised.Settings(mixup=True, smoothing=0.5), lam)
    expected = 0.0
    for i, weight in enumerate(lam):
        log_p = model(weight * batch.x[i : i + 1] + (1 - weight) * batch.x[3 - i : 4 - i]).log_softmax(1)[0]
        expected -= (weight * log_p[i] + (1 - weight) * log_p[3 - i]).item() / 4
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)


def test_draws() -> None:
    assert supervised.draw(np.random.default_rng(0), SIZES, supervised.Settings()) == {}
    lam = supervised.draw(np.random.default_rng(0), Sizes(20_000, 0, 10), supervised.Settings(mixup=True))["lam"]
    assert lam.dtype == np.float32
    assert lam.min() >= 0.5
    assert abs(lam.mean() - 0.81831) < 4 * lam.std() / math.sqrt(len(lam))
