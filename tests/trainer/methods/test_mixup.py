"""Semi-supervised MixUp: a step against plain NumPy, and its guesses without a gradient."""

from __future__ import annotations

import numpy as np
import numpy_losses as reference
import torch
from method_batches import SMALL, Linear, make_batch, make_learner

from trainer.contract import Sizes
from trainer.methods import mixup


def test_a_step_is_that_of_the_paper() -> None:
    settings = mixup.Settings(lambda_u=0.5)
    batch = make_batch(mixup, settings, SMALL, dtype=torch.float64)
    learner = make_learner(mixup, settings, Linear)
    losses = mixup.loss(learner, batch, settings)

    head, mirror = learner.model.head, np.arange(5, -1, -1)
    x, u = reference.flat(batch.x), reference.flat(batch.u[0])
    y, q = reference.hot(batch.y, 4), reference.predict(head, u)
    x, y = (reference.blend(rows, batch.draws["lam_x"], mirror) for rows in (x, y))
    u, q = (reference.blend(rows, batch.draws["lam_u"], mirror) for rows in (u, q))
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), y)
    loss_u, slope_u = reference.cross_entropy(reference.logits(head, u), q)
    parts = [(x, slope_x), (u, 0.5 * slope_u)]
    reference.matches(losses, head, parts, 1e-6, loss_x=loss_x, loss_u=loss_u, total=loss_x + 0.5 * loss_u)
    assert losses.metrics["weight_u"] == 0.5


def test_labelled_and_unlabelled_images_have_weights_of_their_own() -> None:
    drawn = mixup.draw(np.random.default_rng(0), Sizes(20_000, 20_000, 10), mixup.Settings(beta=0.25))
    for lam in drawn.values():
        assert abs(lam.mean() - 0.88138) < 4 * lam.std() / np.sqrt(len(lam))
    assert abs(np.corrcoef(drawn["lam_x"], drawn["lam_u"])[0, 1]) < 0.03


def test_the_unlabelled_loss_has_its_whole_weight_from_the_first_step() -> None:
    assert mixup.schedule(0, 1000, 10, mixup.Settings()) == {"weight_u": 1.0}
