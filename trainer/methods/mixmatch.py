"""MixMatch (Berthelot et al. 2019): guess a label for every unlabelled image, then mix everything with everything.

The guess is the average prediction for several views, sharpened. The settings cover the paper's ablations:
`temperature=1` (no sharpening), `num_views`, `mixup`, `guess_ema`. No known differences from the official code.

Differs from the paper, as the code does: the ramp takes 16,384 steps, not 16,000, and kernels shrink by .02 · lr =
.00004 a step, not .0004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.contract import WEAK, Batch, Learner, Losses, Sizes, Views, option
from trainer.functional import mixmatch, ops, schedules

NAME = "mixmatch"
SUMMARY = "sharpened guesses for unlabelled images, mixed with each other and with the labelled ones"


@dataclass(frozen=True)
class Settings:
    """Settings of MixMatch."""

    alpha: float = option(0.75, "MixUp: λ ~ Beta(α, α), one for each image", above=0)
    lambda_u: float = option(75.0, "weight of the unlabelled loss once the ramp is over", min=0)
    temperature: float = option(0.5, "sharpening temperature of the guessed labels; 1: no sharpening", above=0)
    rampup_steps: int = option(16384, "steps over which the unlabelled loss grows linearly", min=0)
    num_views: int = option(2, "views of an unlabelled image that share one guess, 1 to 4", min=1, max=4)
    mixup: Literal["both", "labeled", "unlabeled", "separate", "none"] = option(
        "both",
        "both: all rows with each other; separate: labelled and unlabelled rows each among themselves; "
        "labeled or unlabeled: these alone; none",
    )
    guess_ema: bool = option(False, "guess from the averaged weights")


PRESETS = {
    "cifar10": {"alpha": 0.75, "lambda_u": 75.0},
    # with SVHN's extra images the paper uses alpha=0.25; their store is of the same family
    "svhn": {"alpha": 0.75, "lambda_u": 250.0},
    "stl10": {"alpha": 0.75, "lambda_u": 50.0},
    "digits": {"rampup_steps": 300},  # ours; runs of about a thousand steps
    "embeddings": {"lambda_u": 5.0, "rampup_steps": 1000},  # ours, as all presets for embeddings
}


def views(settings: Settings) -> Views:
    """Weak views of one image; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=WEAK * settings.num_views, teacher=settings.guess_ema)


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """MixUp over all n = B + VU rows: `lam` float32 [n] = max(λ, 1 − λ), `partner` int64 [n], a permutation.

    Rows that are not to be mixed have λ = 1.
    """
    labeled, unlabeled = sizes.labeled, settings.num_views * sizes.unlabeled
    if settings.mixup == "both":
        return mixmatch.draw(rng, settings.alpha, labeled + unlabeled)
    lam = ops.mixing_weights(rng, settings.alpha, labeled + unlabeled)
    if settings.mixup in ("unlabeled", "none"):
        lam[:labeled] = 1
    if settings.mixup in ("labeled", "none"):
        lam[labeled:] = 1
    return {"lam": lam, "partner": np.append(rng.permutation(labeled), labeled + rng.permutation(unlabeled))}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of MixMatch (algorithm 1), with as many unlabelled as labelled images."""
    mixed = mixmatch.step(
        learner.model,
        batch.x,
        batch.y,
        batch.u,
        batch.draws,
        settings.temperature,
        guesser=learner.teacher if settings.guess_ema else None,
    )
    loss_x = ops.cross_entropy(mixed.z_x, mixed.y_x).mean()
    loss_u = ops.squared_error(mixed.z_u, mixed.y_u).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {"loss_x": loss_x, "loss_u": loss_u, "weight_u": weight_u, "confidence": mixed.q.amax(1).mean()}
    return Losses(loss_x + weight_u * loss_u, metrics)
