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

from dataclasses import dataclass

import torch

from trainer.contract import Batch, Learner, Losses, Views, option
from trainer.functional import masks, ops, schedules

NAME = "uda"
SUMMARY = "strong views must predict what confident weak ones do, sharpened"


@dataclass(frozen=True)
class Settings:
    """Settings of UDA."""

    temperature: float = option(0.4, "sharpening temperature of the targets", above=0)
    threshold: float = option(0.8, "rows count above this confidence, before sharpening", min=0, max=1)
    lambda_u: float = option(1.0, "weight of the unlabelled loss", min=0)
    ratio: int = option(7, "unlabelled images per labelled one", min=1)
    tsa: schedules.TSA = option("none", "training-signal annealing of the labelled rows: none, linear, log or exp")


PRESETS = {
    "any": {
        "run": {"optimizer": "sgd", "lr": 0.03, "lr_schedule": "cosine", "weight_decay": 5e-4, "ema_decay": 0.9999}
    },
}


def views(settings: Settings) -> Views:
    """A weak and a strong view of all training images."""
    return Views(unlabeled=("weak", "strong"), labeled_in_unlabeled=True, ratio=settings.ratio, policy="uda")


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
        "loss_x": loss_x,
        "loss_u": loss_u,
        "tsa_kept": keep_x.mean(),
        "kept": keep_u.mean(),
        "confidence": confidence.mean(),
    }
    return Losses(loss_x + batch.schedule["weight_u"] * loss_u, metrics)
