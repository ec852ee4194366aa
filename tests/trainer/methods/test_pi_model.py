"""Π-Model: a step against plain NumPy, and which of the two views learns."""

from __future__ import annotations

import numpy_losses as reference
import torch
from method_batches import SMALL, Linear, make_batch, make_learner

from trainer.methods import pi_model


def test_a_step_is_that_of_the_paper() -> None:
    settings = pi_model.Settings(lambda_u=20.0, rampup_share=1.0)  # half-way through: weight 10
    batch = make_batch(pi_model, settings, SMALL, dtype=torch.float64)
    learner = make_learner(pi_model, settings, Linear)
    losses = pi_model.loss(learner, batch, settings)

    head = learner.model.head
    x, u_1, u_2 = (reference.flat(images) for images in (batch.x, *batch.u))
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), reference.hot(batch.y, 4))
    loss_u, slope_u = reference.squared_error(reference.logits(head, u_2), reference.predict(head, u_1))
    parts = [(x, slope_x), (u_2, 10 * slope_u)]
    reference.matches(losses, head, parts, loss_x=loss_x, loss_u=loss_u, total=loss_x + 10 * loss_u)


def test_the_gradient_passes_through_the_second_view_alone() -> None:
    settings = pi_model.Settings(rampup_share=0.0)
    batch = make_batch(pi_model, settings, SMALL, dtype=torch.float64)
    for view in batch.u:
        view.requires_grad_()
    pi_model.loss(make_learner(pi_model, settings, Linear), batch, settings).total.backward()
    first, second = batch.u
    assert first.grad is None
    assert second.grad is not None
    assert second.grad.abs().sum() > 0
