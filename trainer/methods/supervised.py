"""Supervised training on the labelled images alone, with or without MixUp: the baseline of the MixMatch family.

With all labels it is the "fully supervised" row of the papers' tables; with few it is what a semi-supervised method has
to beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.contract import Batch, Learner, Losses, Sizes, option
from trainer.functional import ops

NAME = "supervised"
SUMMARY = "labelled images only; with or without MixUp"


@dataclass(frozen=True)
class Settings:
    """Settings of the supervised baseline."""

    smoothing: float = option(0.001, "label smoothing in [0, 1); not used with MixUp", min=0, below=1)
    mixup: bool = option(
        False, "mix each image with its mirror row of the batch; the original pairs it with weight_decay=0.002"
    )
    beta: float = option(0.5, "MixUp: λ ~ Beta(β, β), one for each image", above=0)


PRESETS = {
    "cifar10": {"smoothing": 0.001, "run": {"weight_decay": 0.02}},
    "svhn": {"smoothing": 0.01, "run": {"weight_decay": 0.002}},
}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """With MixUp: `lam` float32 [B] = max(λ, 1 − λ)."""
    return {"lam": ops.mixing_weights(rng, settings.beta, sizes.labeled)} if settings.mixup else {}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """Mean cross-entropy of one forward pass."""
    if settings.mixup:
        lam, partner = batch.draws["lam"], ops.mirrored(batch.x)
        logits = learner.model(ops.mixup(batch.x, lam, partner), update=0)
        targets = ops.mixup(ops.one_hot(batch.y, logits.shape[1]), lam, partner)
    else:
        logits = learner.model(batch.x, update=0)
        targets = ops.smooth(ops.one_hot(batch.y, logits.shape[1]), settings.smoothing)
    loss_x = ops.cross_entropy(logits, targets).mean()
    return Losses(loss_x, {"loss_x": loss_x})
