"""MixUp with guessed labels: the semi-supervised "MixUp" baseline of the MixMatch paper (Berthelot et al. 2019).

Labelled images are mixed with labelled ones, unlabelled with unlabelled ones, whose targets are the network's own
predictions. Nothing is sharpened, averaged or ramped. No known differences from the official code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trainer.contract import Batch, Learner, Losses, Sizes, Views, option
from trainer.functional import ops

NAME = "mixup"
SUMMARY = "MixUp of labelled images, and of unlabelled ones with the network's own predictions"


@dataclass(frozen=True)
class Settings:
    """Settings of semi-supervised MixUp."""

    beta: float = option(0.75, "MixUp: λ ~ Beta(β, β), one for each image", above=0)
    lambda_u: float = option(1.0, "weight of the unlabelled loss, from the first step", min=0)


PRESETS = {
    "cifar10": {"beta": 0.75},
    "svhn": {"beta": 0.25},
    "digits": {"beta": 0.25, "lambda_u": 0.1},  # ours; few labels, short runs: guesses are wrong for most of the run
}


def views(settings: Settings) -> Views:
    """One weak view; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=("weak",))


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """`lam_x` float32 [B] and `lam_u` float32 [U], max(λ, 1 − λ) of each image."""
    return {
        "lam_x": ops.mixing_weights(rng, settings.beta, sizes.labeled),
        "lam_u": ops.mixing_weights(rng, settings.beta, sizes.unlabeled),
    }


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U, without a ramp."""
    return {"weight_u": settings.lambda_u}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, with as many unlabelled as labelled images."""
    (u,) = batch.u

    # Guess: the prediction as it is.
    with torch.no_grad():
        q = ops.softmax(learner.model(u))

    # Mix every image with its mirror row of the same batch.
    lam_x, lam_u, partner = batch.draws["lam_x"], batch.draws["lam_u"], ops.mirrored(u)
    x, y = (ops.mixup(rows, lam_x, partner) for rows in (batch.x, ops.one_hot(batch.y, q.shape[1])))
    u, y_u = (ops.mixup(rows, lam_u, partner) for rows in (u, q))

    # Predict: the labelled images update BatchNorm's running statistics.
    z_x, z_u = learner.model(torch.cat([x, u]), groups=2, update=0).chunk(2)

    loss_x = ops.cross_entropy(z_x, y).mean()
    loss_u = ops.cross_entropy(z_u, y_u).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {"loss_x": loss_x, "loss_u": loss_u, "weight_u": weight_u, "confidence": q.amax(1).mean()}
    return Losses(loss_x + weight_u * loss_u, metrics)
