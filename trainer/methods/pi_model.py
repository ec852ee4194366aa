"""Π-Model (Laine & Aila 2017; Sajjadi et al. 2016): two views of an unlabelled image should be predicted alike.

The prediction for the first view is the target for the second; the gradient passes through the second alone. No known
differences from the official code (MixMatch's), whose flag for label smoothing has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.contract import Batch, Learner, Losses, Views, option
from trainer.functional import ops, schedules

NAME = "pi_model"
SUMMARY = "Π-Model: two views of an unlabelled image should be predicted alike"


@dataclass(frozen=True)
class Settings:
    """Settings of the Π-Model."""

    lambda_u: float = option(20.0, "weight of the unlabelled loss once the ramp is over", min=0)
    rampup_share: float = option(0.4, "share of the run over which the unlabelled loss grows linearly", min=0, max=1)


PRESETS = {
    "cifar10": {"lambda_u": 20.0, "run": {"weight_decay": 0.02}},
    "svhn": {"lambda_u": 5.0, "run": {"weight_decay": 0.2}},
    "embeddings": {"lambda_u": 2.0},  # ours
}


def views(settings: Settings) -> Views:
    """Two weak views of one image; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=("weak", "weak"))


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_share * steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, with as many unlabelled as labelled images."""
    u_1, u_2 = batch.u

    with torch.no_grad():
        target = ops.softmax(learner.model(u_1))

    # The labelled images update BatchNorm's running statistics.
    z_x, z_u = learner.model(torch.cat([batch.x, u_2]), groups=2, update=0).chunk(2)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    loss_u = ops.squared_error(z_u, target).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {"loss_x": loss_x, "loss_u": loss_u, "weight_u": weight_u, "confidence": target.amax(1).mean()}
    return Losses(loss_x + weight_u * loss_u, metrics)
