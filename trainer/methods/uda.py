"""UDA, unsupervised data augmentation (Xie et al. 2020): a strong view must predict what its weak view does, sharpened.

Rows count where the network is confident. Training-signal annealing, for few labels, holds back the labelled rows that
are already learnt; it is off in the settings for CIFAR-10 and SVHN.

Differs from the official code:
- strong views are drawn anew at each step; there a hundred were drawn in advance;
- the weight penalty is on kernels alone; there also on biases and BatchNorm;
- BatchNorm's running statistics are not averaged; there they are;
- the network is that of every method here; there ReLU, and BatchNorm with a shorter memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Sizes, Views, require
from trainer.functional import masks, ops, schedules

NAME = "uda"
SUMMARY = "strong views must predict what confident weak ones do, sharpened"


@dataclass(frozen=True)
class Settings:
    """Settings of UDA."""

    temperature: float = field(default=0.4, metadata={"help": "sharpening temperature of the targets"})
    threshold: float = field(default=0.8, metadata={"help": "rows count above this confidence, before sharpening"})
    lambda_u: float = field(default=1.0, metadata={"help": "weight of the unlabelled loss"})
    ratio: int = field(default=7, metadata={"help": "unlabelled images per labelled one"})
    tsa: schedules.TSA = field(
        default="none", metadata={"help": "training-signal annealing of the labelled rows: none, linear, log or exp"}
    )

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.threshold <= 1, "threshold", self.threshold, "between 0 and 1")
        require(self.lambda_u >= 0, "lambda_u", self.lambda_u, "at least 0")
        require(self.ratio >= 1, "ratio", self.ratio, "at least 1")
        require(self.tsa in get_args(schedules.TSA), "tsa", self.tsa, "none, linear, log or exp")


PRESETS: dict[str, dict[str, Any]] = {
    "any": {
        "run": {"optimizer": "sgd", "lr": 0.03, "lr_schedule": "cosine", "weight_decay": 5e-4, "ema_decay": 0.9999}
    },
}


def views(settings: Settings) -> Views:
    """A weak and a strong view of all training images."""
    return Views(unlabeled=("weak", "strong"), labeled_in_unlabeled=True, ratio=settings.ratio, policy="uda")


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """None."""
    return {}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """Nothing."""
    return {}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_u, without a ramp; `tsa_threshold` η."""
    return {
        "weight_u": settings.lambda_u,
        "tsa_threshold": schedules.tsa_threshold(settings.tsa, step, steps, num_classes),
    }


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of UDA (eq. 1, with the training techniques of §3.1 and appendix)."""
    # One forward pass of all rows: they share BatchNorm's statistics, and all of them move the running ones.
    weak, strong = batch.u
    logits = learner.model(torch.cat([batch.x, weak, strong]), update=0)
    z_x, z_weak, z_strong = logits.split([len(batch.x), len(weak), len(strong)])

    # Labelled loss over the rows that are not yet learnt.
    y = ops.one_hot(batch.y, logits.shape[1])
    p_y = (ops.softmax(z_x.detach()) * y).sum(1)
    keep_x = (p_y <= batch.schedule["tsa_threshold"]).to(p_y.dtype)
    loss_x = masks.kept_mean(ops.cross_entropy(z_x, y), keep_x)

    # Divergence of the strong view's prediction from the weak one's, where that is confident.
    z_weak = z_weak.detach()
    confidence = ops.softmax(z_weak).amax(1)
    keep_u = (confidence > settings.threshold).to(confidence.dtype)
    loss_u = (keep_u * ops.kl_divergence(z_weak / settings.temperature, z_strong)).mean()  # over all rows

    metrics = {
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "tsa_kept": keep_x.mean(),
        "kept": keep_u.mean(),
        "confidence": confidence.mean(),
    }
    return Losses(loss_x + batch.schedule["weight_u"] * loss_u, metrics)
