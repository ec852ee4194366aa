"""Interpolation consistency training: a step against plain NumPy, and what is mixed."""

from __future__ import annotations

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SMALL, Linear, make_batch, make_learner

from trainer.contract import Sizes
from trainer.methods import ict


def test_a_step_is_that_of_the_paper() -> None:
    settings = ict.Settings(lambda_u=100.0, rampup_share=1.0)
    batch = make_batch(ict, settings, SMALL, dtype=torch.float64)
    learner = make_learner(ict, settings, Linear)
    losses = ict.loss(learner, batch, settings)

    head, teacher, mirror = learner.model.head, learner.teacher.head, np.arange(5, -1, -1)
    x, u = reference.flat(batch.x), reference.flat(batch.u[0])
    mixed = reference.blend(u, batch.draws["lam"], mirror)
    target = reference.blend(reference.predict(teacher, u), batch.draws["lam"], mirror)
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), reference.hot(batch.y, 4))
    loss_u, slope_u = reference.squared_error(reference.logits(head, mixed), target)
    parts = [(x, slope_x), (mixed, 50 * slope_u)]
    reference.matches(losses, head, parts, loss_x=loss_x, loss_u=loss_u, total=loss_x + 50 * loss_u)


def test_predictions_are_mixed_not_logits() -> None:
    """Half of a sure prediction for one class and half of one for another is half and half; so would few logits say."""
    settings = ict.Settings(rampup_share=0.0)
    batch = make_batch(ict, settings, SMALL, dtype=torch.float64)
    batch.draws = {"lam": torch.full((6,), 0.75)}
    learner = make_learner(ict, settings, Linear)
    sure = 100 * torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 1, 0]]
    learner.teacher = lambda rows: sure
    with torch.no_grad():
        z = learner.model(0.75 * batch.u[0] + 0.25 * batch.u[0].flip(0))
    target = 0.75 * sure / 100 + 0.25 * sure.flip(0) / 100
    expected = (z.softmax(1) - target).square().mean().item()
    assert ict.loss(learner, batch, settings).metrics["loss_u"].item() == pytest.approx(expected, rel=1e-9)


def test_weights_are_drawn_for_unlabelled_images_alone() -> None:
    drawn = ict.draw(np.random.default_rng(0), Sizes(4, 20_000, 10), ict.Settings(beta=0.5))
    assert list(drawn) == ["lam"]
    assert abs(drawn["lam"].mean() - 0.81831) < 4 * drawn["lam"].std() / np.sqrt(20_000)
