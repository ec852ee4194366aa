"""Which rows the two masks keep, how many, and that a mask passes no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.functional import ops
from trainer.functional.masks import kept_mean, ood_mask, tsa_mask

ETA = 0.625  # linear annealing at half the run, four classes


def logits(*probs: list[float]) -> Tensor:
    return torch.tensor(probs, dtype=torch.float64).log()


def hard(rows: int) -> Tensor:
    return torch.tensor([[1.0, 0.0, 0.0, 0.0]] * rows, dtype=torch.float64)


SOFT = torch.tensor([[0.7, 0.3, 0.0, 0.0]] * 2, dtype=torch.float64)
PAIR = logits([0.5, 0.2, 0.2, 0.1], [0.5, 0.15, 0.25, 0.1])


def test_tsa_with_soft_labels_drops_a_row_when_every_class_is_met() -> None:
    assert tsa_mask(PAIR, SOFT, ETA).tolist() == [0, 1]


def test_tsa_loss_is_the_mean_over_what_is_kept() -> None:
    z = PAIR.clone().requires_grad_()
    errors = ops.cross_entropy(z, SOFT)
    loss = kept_mean(errors, tsa_mask(z, SOFT, ETA))
    assert loss.item() == pytest.approx(1.054339, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
    (alone,) = torch.autograd.grad(errors[1], z)
    assert torch.equal(gradient, alone), "the mask must not add a gradient, a dropped row must have none"
    assert (gradient[0] == 0).all()


def test_tsa_with_hard_labels_needs_less_than_the_threshold() -> None:
    first = torch.tensor([0.6, 0.625, 0.711235], dtype=torch.float64)
    z = torch.cat([first[:, None], ((1 - first) / 3)[:, None].expand(-1, 3)], 1).log()
    z[1] = torch.tensor([5.0, 1.0, 1.0, 1.0]).double().log()  # exactly 5/8
    assert ops.softmax(z)[1, 0].item() == ETA
    assert tsa_mask(z, hard(3), ETA).tolist() == [1, 0, 0]


def test_tsa_threshold_may_be_a_tensor() -> None:
    assert tsa_mask(PAIR.float(), SOFT.float(), torch.tensor(ETA)).tolist() == [0, 1]


def test_tsa_from_logits_keeps_what_the_rule_drops() -> None:
    z = torch.tensor([[2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert ops.softmax(z)[0, 0].item() == pytest.approx(0.711235, abs=1e-6)
    assert tsa_mask(z, hard(1), ETA).item() == 0
    assert tsa_mask(z, hard(1), ETA, legacy=True).item() == 1
    other_class = torch.tensor([[9.0, 0.1, 0.0, 0.0]], dtype=torch.float64)
    assert tsa_mask(other_class, hard(1), ETA).item() == 0
    assert tsa_mask(other_class, hard(1), 1e-3, legacy=True).item() == 1


def test_tsa_at_its_end_keeps_what_is_not_certain() -> None:
    z = logits([0.999, 5e-4, 3e-4, 2e-4], [0.25] * 4)
    assert tsa_mask(z, hard(2), 1.0).tolist() == [1, 1]


def test_all_dropped_is_zero_without_nan() -> None:
    z = logits([0.9, 0.05, 0.03, 0.02], [0.8, 0.1, 0.05, 0.05]).requires_grad_()
    loss = kept_mean(ops.cross_entropy(z, hard(2)), tsa_mask(z, hard(2), ETA))
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()  # type: ignore[union-attr]


CONFIDENCE = torch.tensor([0.9, 0.5, 0.7, 0.3, 0.99, 0.6, 0.8, 0.4], dtype=torch.float64)


@pytest.mark.parametrize(
    ("gamma", "strict", "kept"),
    [
        (0.0, 8, {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99}),
        (0.25, {0.6, 0.7, 0.8, 0.9, 0.99}, {0.5, 0.6, 0.7, 0.8, 0.9, 0.99}),
        (0.5, {0.8, 0.9, 0.99}, {0.7, 0.8, 0.9, 0.99}),
        (0.85, {0.99}, {0.9, 0.99}),
        (1.0, set(), set()),
    ],
)
def test_ood_mask_of_eight(gamma: float, strict: set[float] | int, kept: set[float]) -> None:
    assert set(CONFIDENCE[ood_mask(CONFIDENCE, gamma) > 0].tolist()) == kept
    by_value = ood_mask(CONFIDENCE, gamma, strict=True)
    assert by_value.sum() == 8 if strict == 8 else set(CONFIDENCE[by_value > 0].tolist()) == strict


@pytest.mark.parametrize(
    ("gamma", "strict", "kept"),
    [(0.2, 102, 103), (0.3, 89, 90), (0.4, 76, 77), (0.6, 51, 52), (0.66, 43, 44), (0.85, 19, 20)],
)
def test_ood_mask_counts_of_128(gamma: float, strict: int, kept: int) -> None:
    confidence = torch.from_numpy(np.random.default_rng(1).permutation(128) / 128)
    assert ood_mask(confidence, gamma).sum() == kept
    assert ood_mask(confidence, gamma, strict=True).sum() == strict


def test_ties_drop_the_first_rows_by_rank_and_all_rows_by_value() -> None:
    ties = torch.full((8,), 0.5)
    assert ood_mask(ties, 0.5).tolist() == [0] * 4 + [1] * 4
    assert ood_mask(ties, 0.5, strict=True).sum() == 0


def test_share_is_exact_despite_floating_point() -> None:
    assert 0.29 * 100 < 29
    assert ood_mask(torch.rand(100), 0.29).sum() == 71


def test_masked_squared_error() -> None:
    targets = torch.tensor([[0.7, 0.3], [0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    z = logits([0.6, 0.4], [0.5, 0.5], [0.9, 0.1]).requires_grad_()
    errors = ops.squared_error(z, targets)
    assert (2 * errors).tolist() == pytest.approx([0.02, 0.18, 0.02], abs=1e-12)
    assert errors.mean().item() == pytest.approx(0.036667, abs=1e-6)
    loss = kept_mean(errors, torch.tensor([1.0, 0.0, 1.0]))
    assert loss.item() == pytest.approx(0.01, abs=1e-12)
    loss.backward()
    assert (z.grad != 0).any(1).tolist() == [True, False, True]  # type: ignore[union-attr]


def test_everything_masked_is_a_zero_loss() -> None:
    z = torch.randn(4, 3, requires_grad=True)
    loss = kept_mean(ops.squared_error(z, torch.full((4, 3), 1 / 3)), ood_mask(torch.rand(4), 1.0))
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()  # type: ignore[union-attr]


def test_ood_mask_passes_no_gradient() -> None:
    confidence = torch.rand(8, requires_grad=True)
    assert not ood_mask(confidence, 0.5).requires_grad
    assert not ood_mask(confidence, 0.5, strict=True).requires_grad


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_kept_sets_are_nested_and_counted(levels: list[int], one: float, two: float) -> None:
    confidence = torch.tensor(levels, dtype=torch.float32)
    smaller, larger = sorted((one, two))
    assert (ood_mask(confidence, larger) <= ood_mask(confidence, smaller)).all()
    assert len(levels) - ood_mask(confidence, one).sum() == int(one * len(levels) + 1e-6)
    if smaller > 0:
        assert (ood_mask(confidence, larger, True) <= ood_mask(confidence, smaller, True)).all()
        assert (ood_mask(confidence, one, True) <= ood_mask(confidence, one)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0, 1), st.booleans())
def test_masks_follow_a_permutation_of_the_rows(seed: int, gamma: float, strict: bool) -> None:
    rng = np.random.default_rng(seed)
    confidence, order = torch.from_numpy(rng.permutation(20) / 20), torch.from_numpy(rng.permutation(20))
    assert torch.equal(ood_mask(confidence[order], gamma, strict), ood_mask(confidence, gamma, strict)[order])
    z, y = torch.from_numpy(rng.normal(size=(20, 4))), torch.from_numpy(rng.dirichlet(np.ones(4), 20))
    assert torch.equal(tsa_mask(z[order], y[order], 0.4), tsa_mask(z, y, 0.4)[order])
