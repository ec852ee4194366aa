"""Mean Teacher (Tarvainen & Valpola 2017): the network's averaged weights say what its predictions should be.

The teacher sees one view of an unlabelled image, the student another. The teacher's BatchNorm uses the batch's
statistics, and its weights are the average that is evaluated.

Differs from the official code (MixMatch's):
- the teacher is the average before this step's update; there it is left open which comes first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Sizes, Views, require
from trainer.functional import ops, schedules

NAME = "mean_teacher"
SUMMARY = "Mean Teacher: predictions should be those of the averaged weights for another view"


@dataclass(frozen=True)
class Settings:
    """Settings of Mean Teacher."""

    lambda_u: float = field(default=50.0, metadata={"help": "weight of the unlabelled loss once the ramp is over"})
    rampup_share: float = field(
        default=0.4, metadata={"help": "share of the run over which the unlabelled loss grows linearly"}
    )

    def __post_init__(self) -> None:
        require(self.lambda_u >= 0, "lambda_u", self.lambda_u, "at least 0")
        require(0 <= self.rampup_share <= 1, "rampup_share", self.rampup_share, "between 0 and 1")


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"lambda_u": 50.0, "run": {"weight_decay": 0.2}},
    # with SVHN's extra images the paper uses lambda_u=180; their store is of the same family
    "svhn": {"lambda_u": 150.0, "run": {"weight_decay": 0.02}},
    "digits": {"lambda_u": 10.0},  # in runs of a few hundred steps the average lags far behind
}


def views(settings: Settings) -> Views:
    """Two weak views of one image; labelled images are not in the unlabelled pool."""
    return Views(unlabeled=("weak", "weak"), teacher=True)


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """None."""
    return {}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """Nothing."""
    return {}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_share * steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, as many unlabelled as labelled images."""
    assert learner.teacher is not None, "views asks for it"
    u_1, u_2 = batch.u

    with torch.no_grad():
        target = ops.softmax(learner.teacher(u_1))

    # BatchNorm's running statistics follow the labelled images.
    z_x, z_u = learner.model(torch.cat([batch.x, u_2]), groups=2, update=0).chunk(2)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    loss_u = ops.squared_error(z_u, target).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "weight_u": weight_u,
        "confidence": target.amax(1).mean(),
    }
    return Losses(loss_x + weight_u * loss_u, metrics)
