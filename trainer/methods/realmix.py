"""RealMix (Nair, Duque & Fischer 2019): MixMatch on stored augmented copies, with TSA and an out-of-distribution mask.

What it adds to MixMatch (Berthelot et al. 2019): the unlabelled images come from the store's copies (`views`), labelled
rows that are already learnt do not count (training-signal annealing), and neither do the unlabelled rows with the least
confidence (the mask). Without copies, TSA and γ it is MixMatch. With γ = auto, which the paper does not have, the share
that the mask drops is estimated now and then while training (`trainer.evaluation.mismatch_share`).

Differs from the official code:
- annealing compares predictions with labels; there logits, so that it hardly ever acts (`tsa_legacy`);
- the mask drops exactly ⌊γn⌋ rows; there one more, and ties (`ood_strict`);
- every copy is augmented by itself; there one draw is shared by all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Sizes, Views, require
from trainer.functional import masks, ops, schedules

NAME = "realmix"
SUMMARY = "MixMatch on stored copies, with training-signal annealing and an out-of-distribution mask"
VIEWS = 2


@dataclass(frozen=True)
class Settings:
    """Settings of RealMix. `gamma` is not None when `draw` and `loss` are called: whoever trains resolves it."""

    alpha: float = field(default=0.75, metadata={"help": "MixUp: λ ~ Beta(α, α), one for each image"})
    lambda_u: float = field(default=75.0, metadata={"help": "weight of the unlabelled loss once the ramp is over"})
    temperature: float = field(default=0.5, metadata={"help": "sharpening temperature of the guessed labels"})
    rampup_steps: int = field(default=16384, metadata={"help": "steps over which the unlabelled loss grows linearly"})
    tsa: schedules.TSA = field(
        default="none",
        metadata={"help": "training-signal annealing: none, linear (the paper's choice up to 250 labels), log or exp"},
    )
    gamma: float | Literal["auto"] | None = field(
        default=None,
        metadata={
            "help": "share of unlabelled rows that the out-of-distribution mask drops; unset: what the store suggests; "
            "auto: estimated from the features",
            "from_store": "gamma",
        },
    )
    ood_confidence: Literal["mixed", "target"] = field(
        default="mixed",
        metadata={
            "help": "the mask's confidence: mixed (the prediction for the mixed row) or target (the guessed label)"
        },
    )
    ood_strict: bool = field(default=False, metadata={"help": "mask one row more, and ties, as the authors' code does"})
    tsa_legacy: bool = field(default=False, metadata={"help": "TSA thresholds from logits, as in the authors' code"})

    def __post_init__(self) -> None:
        require(self.alpha > 0, "alpha", self.alpha, "above 0")
        require(self.lambda_u >= 0, "lambda_u", self.lambda_u, "at least 0")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(self.rampup_steps >= 0, "rampup_steps", self.rampup_steps, "at least 0")
        require(self.tsa in get_args(schedules.TSA), "tsa", self.tsa, "none, linear, log or exp")
        if self.gamma is not None and self.gamma != "auto":
            require(0 <= self.gamma <= 1, "gamma", self.gamma, "between 0 and 1, or auto")
        require(self.ood_confidence in ("mixed", "target"), "ood_confidence", self.ood_confidence, "mixed or target")


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"alpha": 0.75, "lambda_u": 75.0},
    "svhn": {"alpha": 0.75, "lambda_u": 250.0},
    "stl10": {"alpha": 0.75, "lambda_u": 50.0},
    "digits": {"rampup_steps": 300},  # runs of about a thousand steps
}


def views(settings: Settings) -> Views:
    """Two weak views of one stored copy; labelled images are not in the unlabelled pool."""
    return Views(unlabeled=("weak", "weak"), source="copies", mismatch=settings.gamma == "auto")


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """With γ = auto its estimate, float32 0-dim: 0 before the first one."""
    return {"gamma": torch.zeros(())} if settings.gamma == "auto" else {}


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """MixUp over all n = B + 2U rows: `lam` float32 [n] = max(λ, 1 − λ), `partner` int64 [n], a permutation."""
    rows = sizes.labeled + VIEWS * sizes.unlabeled
    return {"lam": ops.mixing_weights(rng, settings.alpha, rows), "partner": rng.permutation(rows)}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp; `tsa_threshold` η."""
    return {
        "weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_steps),
        "tsa_threshold": schedules.tsa_threshold(settings.tsa, step, steps, num_classes),
    }


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of RealMix, as many unlabelled as labelled samples (RealMix algorithm 1)."""
    assert settings.gamma is not None, "gamma is resolved from the store before training"
    assert all(view.shape == batch.x.shape for view in batch.u), "interleaving exchanges batches of one size"

    # As MixMatch guesses, from the live weights, each view by its own statistics: one sharpened label for both.
    with torch.no_grad():
        q = ops.guess(learner.model(torch.cat(batch.u), groups=VIEWS).chunk(VIEWS), settings.temperature)

    # As MixMatch mixes: labelled and unlabelled rows with one another.
    lam, partner = batch.draws["lam"], batch.draws["partner"]
    x = ops.mixup(torch.cat([batch.x, *batch.u]), lam, partner)
    y = ops.mixup(torch.cat([ops.one_hot(batch.y, q.shape[1]), *[q] * VIEWS]), lam, partner)
    y_x, y_u = y.split([len(batch.y), VIEWS * len(q)])

    # As MixMatch predicts: BatchNorm's running statistics follow the first, interleaved batch alone.
    batches = ops.interleave(x.split(len(batch.x)))
    logits = learner.model(torch.cat(batches), groups=len(batches), update=0)
    z_x, *z_views = ops.interleave(logits.split(len(batch.x)))
    z_u = torch.cat(z_views)

    # RealMix: labelled loss over the rows that are not yet learnt.
    errors_x = ops.cross_entropy(z_x, y_x)
    if settings.tsa == "none":
        keep_x = torch.ones_like(errors_x)
    else:
        keep_x = masks.tsa_mask(z_x, y_x, batch.schedule["tsa_threshold"], settings.tsa_legacy)
    loss_x = masks.kept_mean(errors_x, keep_x)

    # RealMix: unlabelled loss over the rows that look in-distribution.
    confidence = (ops.softmax(z_u.detach()) if settings.ood_confidence == "mixed" else torch.cat([q] * VIEWS)).amax(1)
    gamma = learner.state["gamma"] if settings.gamma == "auto" else settings.gamma
    keep_u = masks.ood_mask(confidence, gamma, settings.ood_strict)
    loss_u = masks.kept_mean(ops.squared_error(z_u, y_u), keep_u)

    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "weight_u": weight_u,
        "tsa_kept": keep_x.mean(),
        "ood_kept": keep_u.mean(),
        "confidence": confidence.mean(),
    }
    if isinstance(gamma, Tensor):
        metrics["gamma"] = gamma.clone()
    return Losses(loss_x + weight_u * loss_u, metrics, keep_u)
