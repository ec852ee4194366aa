"""Mean Teacher: a step against plain NumPy, and whose weights the teacher has."""

from __future__ import annotations

import copy

import numpy_losses as reference
import torch
from method_batches import SMALL, Linear, make_batch, make_learner
from rounding import assert_same

from networks.build import build_model
from trainer.contract import Learner
from trainer.ema import Ema
from trainer.methods import mean_teacher


def test_a_step_is_that_of_the_paper() -> None:
    settings = mean_teacher.Settings(lambda_u=50.0, rampup_share=1.0)
    batch = make_batch(mean_teacher, settings, SMALL, dtype=torch.float64)
    learner = make_learner(mean_teacher, settings, Linear)
    losses = mean_teacher.loss(learner, batch, settings)

    head, teacher = learner.model.head, learner.teacher.head
    assert not torch.equal(head.weight, teacher.weight)
    x, u_1, u_2 = (reference.flat(images) for images in (batch.x, *batch.u))
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), reference.hot(batch.y, 4))
    loss_u, slope_u = reference.squared_error(reference.logits(head, u_2), reference.predict(teacher, u_1))
    parts = [(x, slope_x), (u_2, 25 * slope_u)]
    reference.matches(losses, head, parts, loss_x=loss_x, loss_u=loss_u, total=loss_x + 25 * loss_u)


def test_the_teacher_is_the_average_before_the_step_and_normalises_by_the_batch() -> None:
    settings = mean_teacher.Settings(rampup_share=0.0)
    batch = make_batch(mean_teacher, settings)
    torch.manual_seed(0)
    model = build_model("wrn-10-1", 4, bn_momentum=0.1).double()
    ema = Ema(model, 0.5)
    learner = Learner(model, ema.teacher())
    for _ in range(2):
        before = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, shadow in zip(before.parameters(), ema.shadow, strict=True):
                parameter.copy_(shadow)
            expected = before(batch.u[0]).softmax(1).amax(1).mean()
        losses = mean_teacher.loss(learner, batch, settings)
        assert_same(losses.metrics["confidence"], expected)
        with torch.no_grad():
            for parameter, slope in zip(
                model.parameters(), torch.autograd.grad(losses.total, list(model.parameters())), strict=True
            ):
                parameter.sub_(0.1 * slope)
        ema.update()
