"""FixMatch (Sohn et al. 2020): a confident prediction for the weak view is the label of the strong view.

Strong views come from RandAugment or CTAugment, which learns its magnitudes from a probe of the labelled images.

Differs from the official code:
- CTAugment's weights follow each step at once; there about four batches late;
- its translations are shares of the side; there of a pixel, which changes nothing (cta_legacy=true does that).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainer.augment import ctaugment
from trainer.contract import Batch, Learner, Losses, Sizes, Views, require
from trainer.functional import ops

NAME = "fixmatch"
SUMMARY = "confident predictions for weak views are the labels of strong ones"


@dataclass(frozen=True)
class Settings:
    """Settings of FixMatch."""

    policy: Literal["randaugment", "ctaugment"] = field(
        default="randaugment", metadata={"help": "what makes the strong views: randaugment or ctaugment"}
    )
    threshold: float = field(default=0.95, metadata={"help": "least confidence of a row that counts"})
    lambda_u: float = field(default=1.0, metadata={"help": "weight of the unlabelled loss"})
    ratio: int = field(default=7, metadata={"help": "unlabelled images per labelled one"})

    cta_legacy: bool = field(
        default=False, metadata={"help": "CTAugment translates by parts of a pixel, as in the authors' code"}
    )

    def __post_init__(self) -> None:
        require(self.policy in ("randaugment", "ctaugment"), "policy", self.policy, "randaugment or ctaugment")
        require(0 <= self.threshold <= 1, "threshold", self.threshold, "between 0 and 1")
        require(self.lambda_u >= 0, "lambda_u", self.lambda_u, "at least 0")
        require(self.ratio >= 1, "ratio", self.ratio, "at least 1")


PRESETS: dict[str, dict[str, Any]] = {
    "any": {"run": {"optimizer": "sgd", "lr": 0.03, "lr_schedule": "cosine", "weight_decay": 5e-4}},
    "cifar100": {"run": {"weight_decay": 1e-3}},
}


def views(settings: Settings) -> Views:
    """A weak and a strong view of all training images; with CTAugment also the probe and the averaged network."""
    learns = settings.policy == "ctaugment"
    return Views(
        labeled=("weak", "probe") if learns else ("weak",), unlabeled=("weak", "strong"), labeled_in_unlabeled=True,
        ratio=settings.ratio, policy=settings.policy, cutout=learns, cta_legacy=settings.cta_legacy,
        teacher=learns,
    )  # fmt: skip


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """What CTAugment has learned."""
    return ctaugment.init_state() if settings.policy == "ctaugment" else {}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """Nothing."""
    return {}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_u, without a ramp: the threshold is one."""
    return {"weight_u": settings.lambda_u}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of FixMatch (algorithm 1)."""
    if batch.probe is not None:
        assert learner.teacher is not None
        with torch.no_grad():
            probs = ops.softmax(learner.teacher(batch.probe, running=True))
        ctaugment.update(learner.state, batch.draws, ctaugment.closeness(probs, batch.y))

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
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "kept": keep.mean(),
        "confidence": confidence.mean(),
    }
    return Losses(loss_x + batch.schedule["weight_u"] * loss_u, metrics)
