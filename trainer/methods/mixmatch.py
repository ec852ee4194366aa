"""MixMatch (Berthelot et al. 2019): guess a label for every unlabelled image, then mix everything with everything.

The guess is the average prediction for several views, sharpened. The settings reach the paper's ablations:
`temperature=1` (no sharpening), `num_views`, `mixup`, `guess_ema`.

Differs from the official code: in nothing that is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from trainer.contract import Batch, Kind, Learner, Losses, Sizes, Views, require
from trainer.functional import ops, schedules

NAME = "mixmatch"
SUMMARY = "sharpened guesses for unlabelled images, mixed with each other and with the labelled ones"
MixUp = Literal["both", "labeled", "unlabeled", "separate", "none"]


@dataclass(frozen=True)
class Settings:
    """Settings of MixMatch."""

    alpha: float = field(default=0.75, metadata={"help": "MixUp: λ ~ Beta(α, α), one for each image"})
    lambda_u: float = field(default=75.0, metadata={"help": "weight of the unlabelled loss once the ramp is over"})
    temperature: float = field(
        default=0.5, metadata={"help": "sharpening temperature of the guessed labels; 1: no sharpening"}
    )
    rampup_steps: int = field(default=16384, metadata={"help": "steps over which the unlabelled loss grows linearly"})
    num_views: int = field(default=2, metadata={"help": "views of an unlabelled image that share one guess, 1 to 4"})
    mixup: MixUp = field(
        default="both",
        metadata={
            "help": "both: all rows with each other; separate: labelled and unlabelled rows each among themselves; "
            "labeled or unlabeled: these alone; none"
        },
    )
    guess_ema: bool = field(default=False, metadata={"help": "guess from the averaged weights"})

    def __post_init__(self) -> None:
        require(self.alpha > 0, "alpha", self.alpha, "above 0")
        require(self.lambda_u >= 0, "lambda_u", self.lambda_u, "at least 0")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(self.rampup_steps >= 0, "rampup_steps", self.rampup_steps, "at least 0")
        require(1 <= self.num_views <= 4, "num_views", self.num_views, "1, 2, 3 or 4")
        require(self.mixup in get_args(MixUp), "mixup", self.mixup, "both, labeled, unlabeled, separate or none")


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"alpha": 0.75, "lambda_u": 75.0},
    # with SVHN's extra images the paper uses alpha=0.25; their store is of the same family
    "svhn": {"alpha": 0.75, "lambda_u": 250.0},
    "stl10": {"alpha": 0.75, "lambda_u": 50.0},
    "digits": {"rampup_steps": 300},  # runs of about a thousand steps
}


def views(settings: Settings) -> Views:
    """Weak views of one image; labelled images are not in the unlabelled pool."""
    weak: tuple[Kind, ...] = ("weak",)
    return Views(unlabeled=weak * settings.num_views, teacher=settings.guess_ema)


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """None."""
    return {}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """MixUp over all n = B + VU rows: `lam` float32 [n] = max(λ, 1 − λ), `partner` int64 [n], a permutation.

    Rows that are not to be mixed have λ = 1.
    """
    labeled, unlabeled = sizes.labeled, settings.num_views * sizes.unlabeled
    lam = ops.mixing_weights(rng, settings.alpha, labeled + unlabeled)
    if settings.mixup == "both":
        return {"lam": lam, "partner": rng.permutation(labeled + unlabeled)}
    if settings.mixup in ("unlabeled", "none"):
        lam[:labeled] = 1
    if settings.mixup in ("labeled", "none"):
        lam[labeled:] = 1
    return {"lam": lam, "partner": np.append(rng.permutation(labeled), labeled + rng.permutation(unlabeled))}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of MixMatch, as many unlabelled as labelled images (MixMatch algorithm 1)."""
    assert all(view.shape == batch.x.shape for view in batch.u), "interleaving exchanges batches of one size"
    guesser = learner.teacher if settings.guess_ema else learner.model
    assert guesser is not None, "views asks for it"
    num_views = len(batch.u)

    # Guess, each view by its own statistics: one sharpened label for all.
    with torch.no_grad():
        q = ops.guess(guesser(torch.cat(batch.u), groups=num_views).chunk(num_views), settings.temperature)

    # Mix labelled and unlabelled rows with one another.
    lam, partner = batch.draws["lam"], batch.draws["partner"]
    x = ops.mixup(torch.cat([batch.x, *batch.u]), lam, partner)
    y = ops.mixup(torch.cat([ops.one_hot(batch.y, q.shape[1]), *[q] * num_views]), lam, partner)
    y_x, y_u = y.split([len(batch.y), num_views * len(q)])

    # Predict: BatchNorm's running statistics follow the first batch alone, which interleaving made a mixture of all.
    batches = ops.interleave(x.split(len(batch.x)))
    logits = learner.model(torch.cat(batches), groups=len(batches), update=0)
    z_x, *z_views = ops.interleave(logits.split(len(batch.x)))
    z_u = torch.cat(z_views)

    loss_x = ops.cross_entropy(z_x, y_x).mean()
    loss_u = ops.squared_error(z_u, y_u).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "weight_u": weight_u,
        "confidence": q.amax(1).mean(),
    }
    return Losses(loss_x + weight_u * loss_u, metrics)
