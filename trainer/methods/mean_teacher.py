"""Mean Teacher (Tarvainen & Valpola 2017): the network should predict what its averaged weights predict.

The teacher sees one view of an unlabelled image, the student another. The teacher's BatchNorm uses the statistics of
the batch, and its weights are the average that is evaluated.

Differs from the official code (MixMatch's):
- the teacher is the average before this step's update; there the order is undefined.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.contract import Batch, Learner, Losses, Views, option
from trainer.functional import ops, schedules

NAME = "mean_teacher"
SUMMARY = "Mean Teacher: predictions should be those of the averaged weights for another view"


@dataclass(frozen=True)
class Settings:
    """Settings of Mean Teacher."""

    lambda_u: float = option(50.0, "weight of the unlabelled loss once the ramp is over", min=0)
    rampup_share: float = option(0.4, "share of the run over which the unlabelled loss grows linearly", min=0, max=1)


PRESETS = {
    "cifar10": {"lambda_u": 50.0, "run": {"weight_decay": 0.2}},
    # with SVHN's extra images the paper uses lambda_u=180; their store is of the same family
    "svhn": {"lambda_u": 150.0, "run": {"weight_decay": 0.02}},
    "digits": {"lambda_u": 10.0},  # ours; in runs of a few hundred steps the average lags far behind
    "embeddings": {"lambda_u": 1.0},  # ours
}


def views(settings: Settings) -> Views:
    """Two weak views of one image; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=("weak", "weak"), teacher=True)


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_share * steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, with as many unlabelled as labelled images."""
    assert learner.teacher is not None, "declared in views"
    u_1, u_2 = batch.u

    with torch.no_grad():
        target = ops.softmax(learner.teacher(u_1))

    # The labelled images update BatchNorm's running statistics.
    z_x, z_u = learner.model(torch.cat([batch.x, u_2]), groups=2, update=0).chunk(2)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    loss_u = ops.squared_error(z_u, target).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {"loss_x": loss_x, "loss_u": loss_u, "weight_u": weight_u, "confidence": target.amax(1).mean()}
    return Losses(loss_x + weight_u * loss_u, metrics)
