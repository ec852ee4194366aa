"""Pseudo-Label (Lee 2013): where the network is confident, its prediction is taken for the label.

Differs from the official code (MixMatch's, and those after it):
- the mask has one value per image; there a superfluous dimension makes the mean run over all pairs of an image and a
  mask, so that unconfident images are trained on as well (`legacy_broadcast` does that).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.contract import Batch, Learner, Losses, Views, option
from trainer.functional import ops, schedules

NAME = "pseudo_label"
SUMMARY = "Pseudo-Label: confident predictions are taken for labels"


@dataclass(frozen=True)
class Settings:
    """Settings of Pseudo-Label."""

    lambda_u: float = option(1.0, "weight of the unlabelled loss once the ramp is over", min=0)
    threshold: float = option(0.95, "confidence that a prediction must exceed", min=0, max=1)
    rampup_share: float = option(0.4, "share of the run over which the unlabelled loss grows linearly", min=0, max=1)
    legacy_broadcast: bool = option(False, "every image counts by the mean of the mask, as in the authors' code")


PRESETS = {
    "cifar10": {"lambda_u": 1.0, "run": {"weight_decay": 0.02}},
    "svhn": {"lambda_u": 2.0},
}


def views(settings: Settings) -> Views:
    """One weak view; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=("weak",))


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_share * steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, with as many unlabelled as labelled images."""
    (u,) = batch.u

    # The labelled images update BatchNorm's running statistics.
    z_x, z_u = learner.model(torch.cat([batch.x, u]), groups=2, update=0).chunk(2)

    # The prediction is its own target: the gradient goes through the logits, not through the label or the mask.
    confidence, label = ops.softmax(z_u.detach()).max(1)
    keep = (confidence > settings.threshold).to(confidence.dtype)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    errors_u = ops.cross_entropy(z_u, ops.one_hot(label, z_u.shape[1]))
    loss_u = (errors_u * (keep.mean() if settings.legacy_broadcast else keep)).mean()  # over all images, kept or not
    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "weight_u": weight_u,
        "kept": keep.mean(),
        "confidence": confidence.mean(),
    }
    return Losses(loss_x + weight_u * loss_u, metrics, keep)
