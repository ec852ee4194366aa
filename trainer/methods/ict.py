"""Interpolation consistency training (Verma et al. 2019): mixed images should be predicted as their mixed predictions.

The targets are mixtures of what the averaged weights, as they were before this step, predict for the unmixed images.

Differs from the official code (MixMatch's):
- the teacher is the average before this step's update; there it is left open which comes first.
The authors' own code mixes the teacher's logits instead of its predictions, and labelled images too, by one λ a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Sizes, Views, require
from trainer.functional import ops, schedules

NAME = "ict"
SUMMARY = "interpolation consistency: mixed images should be predicted as their mixed predictions"


@dataclass(frozen=True)
class Settings:
    """Settings of ICT."""

    beta: float = field(default=0.75, metadata={"help": "MixUp: λ ~ Beta(β, β), one for each image"})
    lambda_u: float = field(default=1000.0, metadata={"help": "weight of the unlabelled loss once the ramp is over"})
    rampup_share: float = field(
        default=0.4, metadata={"help": "share of the run over which the unlabelled loss grows linearly"}
    )

    def __post_init__(self) -> None:
        require(self.beta > 0, "beta", self.beta, "above 0")
        require(self.lambda_u >= 0, "lambda_u", self.lambda_u, "at least 0")
        require(0 <= self.rampup_share <= 1, "rampup_share", self.rampup_share, "between 0 and 1")


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"beta": 0.75, "lambda_u": 1000.0, "run": {"weight_decay": 0.02}},
    "svhn": {"beta": 0.5, "lambda_u": 20.0},
    "digits": {"lambda_u": 20.0},  # in runs of a few hundred steps the average lags far behind
}


def views(settings: Settings) -> Views:
    """One weak view; labelled images are not in the unlabelled pool."""
    return Views(unlabeled=("weak",), teacher=True)


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """None."""
    return {}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """`lam` float32 [U], max(λ, 1 − λ) of each unlabelled image."""
    return {"lam": ops.mixing_weights(rng, settings.beta, sizes.unlabeled)}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_share * steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, as many unlabelled as labelled images."""
    assert learner.teacher is not None, "views asks for it"
    (u,) = batch.u

    with torch.no_grad():
        q = ops.softmax(learner.teacher(u))

    # Mix every unlabelled image with its mirror row of the batch; the labelled ones are not mixed.
    lam, partner = batch.draws["lam"], ops.mirrored(u)
    u, target = ops.mixup(u, lam, partner), ops.mixup(q, lam, partner)

    # BatchNorm's running statistics follow the labelled images.
    z_x, z_u = learner.model(torch.cat([batch.x, u]), groups=2, update=0).chunk(2)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    loss_u = ops.squared_error(z_u, target).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "weight_u": weight_u,
        "confidence": q.amax(1).mean(),
    }
    return Losses(loss_x + weight_u * loss_u, metrics)
