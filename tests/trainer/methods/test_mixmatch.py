"""MixMatch: whole steps against plain NumPy with every ablation, its batches, and RealMix without its own parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SMALL, Linear, Watched, blend, make_batch, make_learner
from rounding import assert_same

from trainer.methods import mixmatch, realmix


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 0.3, "num_views": 1},
        {"num_views": 3},
        {"num_views": 4, "mixup": "separate"},
        {"mixup": "labeled"},
        {"mixup": "unlabeled"},
        {"mixup": "none"},
        {"guess_ema": True},
    ],
)
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = mixmatch.Settings(lambda_u=20.0, rampup_steps=8, **options)
    batch = make_batch(mixmatch, settings, SMALL, dtype=torch.float64)
    learner = make_learner(mixmatch, settings, Linear)
    losses = mixmatch.loss(learner, batch, settings)

    head, views = learner.model.head, [reference.flat(view) for view in batch.u]
    guesser = learner.teacher.head if settings.guess_ema else head
    q = (sum(reference.predict(guesser, view) for view in views) / len(views)) ** (1 / settings.temperature)
    q /= q.sum(1, keepdims=True)
    lam, partner = batch.draws["lam"], batch.draws["partner"]
    rows = reference.blend(np.concatenate([reference.flat(batch.x), *views]), lam, partner)
    targets = reference.blend(np.concatenate([reference.hot(batch.y, 4), *[q] * len(views)]), lam, partner)
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, rows[:6]), targets[:6])
    loss_u, slope_u = reference.squared_error(reference.logits(head, rows[6:]), targets[6:])
    weight_u = 20 * 5 / 8
    parts = [(rows[:6], slope_x), (rows[6:], weight_u * slope_u)]
    reference.matches(losses, head, parts, loss_x=loss_x, loss_u=loss_u, total=loss_x + weight_u * loss_u)
    assert losses.metrics["weight_u"] == weight_u


@pytest.mark.parametrize("mode", ["both", "labeled", "unlabeled", "separate", "none"])
def test_who_is_mixed_with_whom(mode: str) -> None:
    settings = mixmatch.Settings(mixup=mode, num_views=3)
    drawn = mixmatch.draw(np.random.default_rng(3), mixmatch.Sizes(64, 64, 10), settings)
    lam, partner = drawn["lam"], drawn["partner"]
    assert (np.sort(partner) == np.arange(256)).all()
    assert lam.shape == (256,)
    assert (lam.dtype, partner.dtype) == (np.float32, np.int64)
    assert (lam[:64] == 1).all() == (mode in ("unlabeled", "none"))
    assert (lam[64:] == 1).all() == (mode in ("labeled", "none"))
    crosses = ((partner < 64) != (np.arange(256) < 64)).any()
    assert crosses == (mode == "both")
    for rows in (slice(0, 64), slice(64, 256)):
        assert (partner[rows] != np.arange(256)[rows]).mean() > 0.9, "a permutation, not the rows themselves"


@pytest.mark.parametrize(("num_views", "sizes"), [(1, [3, 3]), (2, [2, 2, 2]), (3, [1, 1, 2, 2]), (4, [1, 1, 1, 1, 2])])
def test_the_batch_that_moves_the_statistics_has_rows_of_every_kind(num_views: int, sizes: list[int]) -> None:
    settings = mixmatch.Settings(num_views=num_views)
    batch, learner = make_batch(mixmatch, settings), make_learner(mixmatch, settings)
    model = learner.model = Watched(learner.model)
    mixmatch.loss(learner, batch, settings)
    guess, mixed = model.calls
    assert (guess.groups, guess.update, guess.differentiable) == (num_views, None, False)
    assert (mixed.groups, mixed.update, mixed.differentiable) == (num_views + 1, 0, True)
    rows = blend(torch.cat([batch.x, *batch.u]), batch.draws["lam"], batch.draws["partner"])
    kinds = [kind.split(sizes)[i] for i, kind in enumerate(rows.split(6))]
    torch.testing.assert_close(mixed.rows[:6], torch.cat(kinds))


def test_the_guess_may_come_from_the_average() -> None:
    settings = mixmatch.Settings(guess_ema=True)
    assert mixmatch.views(settings).teacher
    assert not mixmatch.views(mixmatch.Settings()).teacher
    batch, learner = make_batch(mixmatch, settings), make_learner(mixmatch, settings)
    model = learner.model = Watched(learner.model)
    teacher = learner.teacher = Watched(learner.teacher)
    mixmatch.loss(learner, batch, settings)
    assert [call.groups for call in teacher.calls] == [2]
    assert [call.groups for call in model.calls] == [3]


def test_views_of_the_ablation() -> None:
    assert mixmatch.views(mixmatch.Settings(num_views=4)).unlabeled == ("weak",) * 4


def test_ramp() -> None:
    settings = mixmatch.Settings()
    for step, weight in [(0, 0), (1, 0.004578), (100, 0.457764), (4096, 18.75), (16383, 74.995422), (20000, 75)]:
        assert mixmatch.schedule(step, 500_000, 10, settings)["weight_u"] == pytest.approx(weight, abs=5e-7)


def test_realmix_without_its_own_parts_is_mixmatch() -> None:
    shared = {"lambda_u": 30.0, "rampup_steps": 0, "temperature": 0.4, "alpha": 0.6}
    ours, theirs = mixmatch.Settings(**shared), realmix.Settings(**shared, tsa="none", gamma=0.0)
    batch, other = make_batch(mixmatch, ours), make_batch(realmix, theirs)
    assert torch.equal(batch.draws["lam"], other.draws["lam"])
    gradients = []
    for method, settings in ((mixmatch, ours), (realmix, theirs)):
        learner = make_learner(method, settings)
        total = method.loss(learner, batch, settings).total
        gradients.append([total, *torch.autograd.grad(total, list(learner.model.parameters()))])
    for mine, other_one in zip(*gradients, strict=True):
        assert_same(mine, other_one)
