"""Supervised training on the labelled images alone, with or without MixUp: the baseline of the MixMatch family.

With all labels it is the "fully supervised" row of the papers' tables, with few it is what a semi-supervised method
must beat. Never sees unlabelled images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Sizes, Views, require
from trainer.functional import ops

NAME = "supervised"
SUMMARY = "labelled images only; with or without MixUp"


@dataclass(frozen=True)
class Settings:
    """Settings of the supervised baseline."""

    smoothing: float = field(default=0.001, metadata={"help": "label smoothing in [0, 1); not used with MixUp"})
    mixup: bool = field(
        default=False,
        metadata={
            "help": "mix each image with its mirror row of the batch; the original pairs it with weight_decay=0.002"
        },
    )
    beta: float = field(default=0.5, metadata={"help": "MixUp: λ ~ Beta(β, β), one for each image"})

    def __post_init__(self) -> None:
        require(0 <= self.smoothing < 1, "smoothing", self.smoothing, "at least 0 and below 1")
        require(self.beta > 0, "beta", self.beta, "above 0")


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"smoothing": 0.001, "run": {"weight_decay": 0.02}},
    "svhn": {"smoothing": 0.01, "run": {"weight_decay": 0.002}},
}


def views(settings: Settings) -> Views:
    """No unlabelled images."""
    return Views()


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """None."""
    return {}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """With MixUp: `lam` float32 [B] = max(λ, 1 − λ)."""
    if not settings.mixup:
        return {}
    return {"lam": ops.mixing_weights(rng, settings.beta, sizes.labeled)}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """No ramp."""
    return {}


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
    return Losses(loss_x, {"loss_x": loss_x.detach()})
