"""Pseudo-Label (Lee 2013): where the network is confident, its prediction is taken for the label.

Differs from the official code (MixMatch's, and those after it):
- the mask is one value an image; there it has one dimension too many, so that the mean runs over all pairs of an image
  and a mask and images without confidence are trained as well (`legacy_broadcast` does that).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Sizes, Views, require
from trainer.functional import ops, schedules

NAME = "pseudo_label"
SUMMARY = "Pseudo-Label: confident predictions are taken for labels"


@dataclass(frozen=True)
class Settings:
    """Settings of Pseudo-Label."""

    lambda_u: float = field(default=1.0, metadata={"help": "weight of the unlabelled loss once the ramp is over"})
    threshold: float = field(default=0.95, metadata={"help": "confidence that a prediction must exceed"})
    rampup_share: float = field(
        default=0.4, metadata={"help": "share of the run over which the unlabelled loss grows linearly"}
    )
    legacy_broadcast: bool = field(
        default=False, metadata={"help": "every image counts by the mean of the mask, as in the authors' code"}
    )

    def __post_init__(self) -> None:
        require(self.lambda_u >= 0, "lambda_u", self.lambda_u, "at least 0")
        require(0 <= self.threshold <= 1, "threshold", self.threshold, "between 0 and 1")
        require(0 <= self.rampup_share <= 1, "rampup_share", self.rampup_share, "between 0 and 1")


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"lambda_u": 1.0, "run": {"weight_decay": 0.02}},
    "svhn": {"lambda_u": 2.0},
}


def views(settings: Settings) -> Views:
    """One weak view; labelled images are not in the unlabelled pool."""
    return Views(unlabeled=("weak",))


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
    (u,) = batch.u

    # BatchNorm's running statistics follow the labelled images.
    z_x, z_u = learner.model(torch.cat([batch.x, u]), groups=2, update=0).chunk(2)

    # The prediction is its own target: the gradient goes through the logits, not through the label or the mask.
    confidence, label = ops.softmax(z_u.detach()).max(1)
    keep = (confidence > settings.threshold).to(confidence.dtype)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    errors_u = ops.cross_entropy(z_u, ops.one_hot(label, z_u.shape[1]))
    loss_u = (errors_u * (keep.mean() if settings.legacy_broadcast else keep)).mean()  # over all images, kept or not
    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "weight_u": weight_u,
        "kept": keep.mean(),
        "confidence": confidence.mean(),
    }
    return Losses(loss_x + weight_u * loss_u, metrics, keep)
