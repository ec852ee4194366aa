"""Interpolation consistency training (Verma et al. 2019): mixed images should be predicted as their mixed predictions.

The targets are mixtures of what the averaged weights, as they were before this step, predict for the unmixed images.

Differs from the official code (MixMatch's):
- the teacher is the average before this step's update; there the order is undefined.
The authors' own code mixes the teacher's logits instead of its predictions, and labelled images too, one λ a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trainer.contract import Batch, Learner, Losses, Sizes, Views, option
from trainer.functional import ops, schedules

NAME = "ict"
SUMMARY = "interpolation consistency: mixed images should be predicted as their mixed predictions"


@dataclass(frozen=True)
class Settings:
    """Settings of ICT."""

    beta: float = option(0.75, "MixUp: λ ~ Beta(β, β), one for each image", above=0)
    lambda_u: float = option(1000.0, "weight of the unlabelled loss once the ramp is over", min=0)
    rampup_share: float = option(0.4, "share of the run over which the unlabelled loss grows linearly", min=0, max=1)


PRESETS = {
    "cifar10": {"beta": 0.75, "lambda_u": 1000.0, "run": {"weight_decay": 0.02}},
    "svhn": {"beta": 0.5, "lambda_u": 20.0},
    "digits": {"lambda_u": 20.0},  # ours; in runs of a few hundred steps the average lags far behind
    "embeddings": {"lambda_u": 5.0},  # ours
}


def views(settings: Settings) -> Views:
    """One weak view; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=("weak",), teacher=True)


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """`lam` float32 [U], max(λ, 1 − λ) of each unlabelled image."""
    return {"lam": ops.mixing_weights(rng, settings.beta, sizes.unlabeled)}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_share * steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, with as many unlabelled as labelled images."""
    assert learner.teacher is not None, "declared in views"
    (u,) = batch.u

    with torch.no_grad():
        q = ops.softmax(learner.teacher(u))

    # Mix every unlabelled image with its mirror row of the batch; the labelled ones are not mixed.
    lam, partner = batch.draws["lam"], ops.mirrored(u)
    u, target = ops.mixup(u, lam, partner), ops.mixup(q, lam, partner)

    # The labelled images update BatchNorm's running statistics.
    z_x, z_u = learner.model(torch.cat([batch.x, u]), groups=2, update=0).chunk(2)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    loss_u = ops.squared_error(z_u, target).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {"loss_x": loss_x, "loss_u": loss_u, "weight_u": weight_u, "confidence": q.amax(1).mean()}
    return Losses(loss_x + weight_u * loss_u, metrics)
