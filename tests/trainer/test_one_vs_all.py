"""Detectors of single classes: a worked example, the layout of their outputs, extreme logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer.functional import one_vs_all

ROW = [0.0, 1, -1, 2, 0, 0]  # K = 3: "not" three times, then "this class"


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(actual: Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


def test_a_row_by_hand() -> None:
    d = one_vs_all.differences(double(ROW))
    close(torch.sigmoid(d), 0.880797, 0.268941, 0.731059)
    labels = torch.tensor([0])
    close(one_vs_all.hardest_negative(d, labels), 1.440190)  # .126928 and the larger of .313262 and 1.313262
    pairs = [-(p * p.log() + (1 - p) * (1 - p).log()) for p in torch.sigmoid(d)[0]]
    close(torch.stack(pairs), 0.365334, 0.582203, 0.582203)
    close(one_vs_all.entropy(d), 0.509913)
    other = one_vs_all.differences(double([0.0, 0, 0, 1, 1, 0]))
    close(one_vs_all.disagreement(d, other), 0.578724)
    assert torch.equal(one_vs_all.disagreement(d, other), one_vs_all.disagreement(other, d))
    close(one_vs_all.outlier_score(d, double([0.0, 3, 1])), 0.731059)


def test_the_layout_is_not_that_of_pairs() -> None:
    """Read as pairs the same outputs would say .731059, .952574, .5."""
    said = torch.sigmoid(one_vs_all.differences(double(ROW)))
    pairs = double(ROW).unflatten(1, (-1, 2)).softmax(2)[..., 1]
    close(pairs, 0.731059, 0.952574, 0.5)
    assert (said - pairs).abs().min() > 0.1


def test_the_own_class_is_never_its_hardest_negative() -> None:
    """Also where every class is surely "not" but the own one, so that all negatives are 0."""
    d = double([800.0, -800, -800])
    close(one_vs_all.hardest_negative(d, torch.tensor([0])), 0.0)
    close(one_vs_all.hardest_negative(d, torch.tensor([1])), 1600.0)


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_losses_and_gradients_are_finite_for_any_logit(scale: float) -> None:
    logits = (scale * torch.randn(8, 6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    d, labels = one_vs_all.differences(logits), torch.arange(8) % 3
    total = one_vs_all.hardest_negative(d, labels).sum() + one_vs_all.entropy(d).sum()
    (total + one_vs_all.disagreement(d, d.flip(0)).sum()).backward()
    assert total.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_it_computes_in_float32_at_least() -> None:
    assert one_vs_all.differences(torch.zeros(2, 6, dtype=torch.bfloat16)).dtype == torch.float32
    assert one_vs_all.differences(double(ROW)).dtype == torch.float64
