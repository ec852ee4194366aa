"""FixMatch (Sohn et al. 2020): a confident prediction for the weak view is the label of the strong view.

Strong views come from RandAugment or CTAugment, which learns its magnitudes from a probe of the labelled images.

Differs from the official code:
- CTAugment's weights follow each step at once; there about four batches late;
- its translations are shares of the side; there of a pixel, which changes nothing (cta_legacy=true does that).

Differs from the paper, as the code does: RandAugment's operations have the ranges of AutoAugment's and are each applied
with p = .5; CTAugment's weights are divided by the largest before they are compared with .8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.augment import ctaugment
from trainer.contract import Batch, Learner, Losses, Sizes, Views, option
from trainer.functional import ops

NAME = "fixmatch"
SUMMARY = "confident predictions for weak views are the labels of strong ones"


@dataclass(frozen=True)
class Settings:
    """Settings of FixMatch."""

    policy: Literal["randaugment", "ctaugment"] = option(
        "randaugment", "what makes the strong views: randaugment or ctaugment"
    )
    threshold: float = option(0.95, "least confidence of a row that counts", min=0, max=1)
    lambda_u: float = option(1.0, "weight of the unlabelled loss", min=0)
    ratio: int = option(7, "unlabelled images per labelled one", min=1)
    cta_legacy: bool = option(False, "CTAugment translates by fractions of a pixel, as in the authors' code")


PRESETS = {
    "any": {"run": {"optimizer": "sgd", "lr": 0.03, "lr_schedule": "cosine", "weight_decay": 5e-4}},
    "cifar100": {"run": {"weight_decay": 1e-3}},
    "embeddings": {"threshold": 0.8},  # ours
}


def views(settings: Settings) -> Views:
    """A weak and a strong view of all training images; with CTAugment also the probe and the averaged network."""
    learns = settings.policy == "ctaugment"
    return Views(
        labeled=("weak", "probe") if learns else ("weak",),
        unlabeled=("weak", "strong"),
        labeled_in_unlabeled=True,
        ratio=settings.ratio,
        policy=settings.policy,
        cutout=learns,
        cta_legacy=settings.cta_legacy,
        teacher=learns,
        pixels="CTAugment changes pixels: --set policy=randaugment does not need it" if learns else "",
    )


def init_state(sizes: Sizes, settings: Settings) -> dict[str, Tensor]:
    """What CTAugment has learned."""
    return ctaugment.init_state() if settings.policy == "ctaugment" else {}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_u, without a ramp: the threshold is one."""
    return {"weight_u": settings.lambda_u}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of FixMatch (algorithm 1)."""
    ctaugment.learn(learner.teacher, batch, learner.state)

    # One forward pass of all rows: they share BatchNorm's statistics, and all of them move the running ones.
    weak, strong = batch.u
    logits = learner.model(torch.cat([batch.x, weak, strong]), update=0)
    z_x, z_weak, z_strong = logits.split([len(batch.x), len(weak), len(strong)])

    # Pseudo-labels, where the network is sure.
    confidence, label = ops.softmax(z_weak.detach()).max(1)
    keep = (confidence >= settings.threshold).to(confidence.dtype)

    num_classes = logits.shape[1]
    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, num_classes)).mean()
    loss_u = (keep * ops.cross_entropy(z_strong, ops.one_hot(label, num_classes))).mean()  # over all rows, eq. 4
    metrics = {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "kept": keep.mean(),
        "confidence": confidence.mean(),
    }
    return Losses(loss_x + batch.schedule["weight_u"] * loss_u, metrics)
