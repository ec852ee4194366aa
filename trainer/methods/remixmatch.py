"""ReMixMatch (Berthelot et al. 2020): MixMatch with aligned guesses, anchored to strong views, and rotations to tell.

The guess for a weak view, corrected so that the network predicts each class as often as the labels have it, is the
target of K strong views. CTAugment learns how strong from a probe of the labelled images. Settings that switch parts
off: strong_views=1, align=false, lambda_pre=0, lambda_rotation=0, policy=none, unlabeled_loss=squared_error.

With 40 labels the paper takes strong_views=1 and, for CIFAR-10, lambda_rotation=2 rampup_steps=131072; for SVHN
lambda_rotation=3.

Differs from the official code:
- CTAugment draws single bins, as FixMatch's code does; there a segment between two;
- its translations and rescalings are shares of the side; there of a pixel, which changes nothing
  (cta_legacy=true translates so);
- its weights follow each step at once; there about four batches late;
- unlabelled images of STL-10 get the store's weak view; there none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainer.augment import ctaugment
from trainer.contract import Batch, Kind, Learner, Losses, Sizes, Views, require
from trainer.functional import ops, schedules

NAME = "remixmatch"
SUMMARY = "MixMatch with distribution alignment, strong views anchored to a weak one, and rotations"
HISTORY = 128  # batches whose predictions say how often the network predicts each class
DATA_DECAY = 0.999  # of the average that says how often the labels have it
TINY = 1e-6


@dataclass(frozen=True)
class Settings:
    """Settings of ReMixMatch."""

    strong_views: int = field(default=8, metadata={"help": "strong views of each unlabelled image (K)"})
    alpha: float = field(default=0.75, metadata={"help": "MixUp: λ ~ Beta(α, α), one for each image"})
    temperature: float = field(default=0.5, metadata={"help": "sharpening temperature of the guessed labels"})
    lambda_u: float = field(default=1.5, metadata={"help": "weight of the unlabelled loss once the ramp is over"})
    lambda_pre: float = field(
        default=0.5, metadata={"help": "weight of the first strong view's loss without MixUp, once the ramp is over"}
    )
    lambda_rotation: float = field(
        default=0.5, metadata={"help": "weight of the rotation loss, from the start; 0: no such head"}
    )
    rampup_steps: int = field(default=16384, metadata={"help": "steps over which the unlabelled losses grow linearly"})
    align: bool = field(default=True, metadata={"help": "distribution alignment of the guesses"})
    policy: Literal["ctaugment", "none"] = field(
        default="ctaugment", metadata={"help": "what makes the strong views: ctaugment, or none (weak views instead)"}
    )
    unlabeled_loss: Literal["cross_entropy", "squared_error"] = field(
        default="cross_entropy", metadata={"help": "cross_entropy, or squared_error as in MixMatch"}
    )

    cta_legacy: bool = field(
        default=False, metadata={"help": "CTAugment translates by parts of a pixel, as in the authors' code"}
    )

    def __post_init__(self) -> None:
        require(self.strong_views >= 1, "strong_views", self.strong_views, "at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "above 0")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        for name in ("lambda_u", "lambda_pre", "lambda_rotation", "rampup_steps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(self.policy in ("ctaugment", "none"), "policy", self.policy, "ctaugment or none")
        kinds = ("cross_entropy", "squared_error")
        require(self.unlabeled_loss in kinds, "unlabeled_loss", self.unlabeled_loss, " or ".join(kinds))


PRESETS: dict[str, dict[str, Any]] = {
    "stl10": {"strong_views": 4},
    "digits": {"strong_views": 2, "rampup_steps": 300},  # runs of about a thousand steps
}


def views(settings: Settings) -> Views:
    """A weak view and K strong ones of all training images; a strong view of the labelled ones, and the probe."""
    weak: tuple[Kind, ...] = ("weak",)
    strong: tuple[Kind, ...] = ("strong",)
    rotation = settings.lambda_rotation > 0
    if settings.policy == "none":
        copies = weak * (1 + settings.strong_views)
        return Views(unlabeled=copies, labeled_in_unlabeled=True, rotation=rotation)
    return Views(
        labeled=("strong", "probe"), unlabeled=weak + strong * settings.strong_views, labeled_in_unlabeled=True,
        policy="ctaugment", cta_legacy=settings.cta_legacy, teacher=True, rotation=rotation,
    )  # fmt: skip


def init_state(num_classes: int, settings: Settings) -> dict[str, Tensor]:
    """What CTAugment has learned, and for the alignment:

    p_data: float32 [K], the labels' average; p_model: float32 [128, K], mean predictions of the last batches, oldest
    first. Both start uniform.
    """
    state = ctaugment.init_state() if settings.policy == "ctaugment" else {}
    if settings.align:
        uniform = torch.full((num_classes,), 1 / num_classes)
        state |= {"p_data": uniform, "p_model": uniform.repeat(HISTORY, 1)}
    return state


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """MixUp over all n = B + (K+1)·U rows: `lam` float32 [n] = max(λ, 1 − λ), `partner` int64 [n], a permutation."""
    rows = sizes.labeled + (1 + settings.strong_views) * sizes.unlabeled
    return {"lam": ops.mixing_weights(rng, settings.alpha, rows), "partner": rng.permutation(rows)}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` and `weight_pre`: λ_u and λ_pre times their ramp."""
    ramp = schedules.linear_ramp(step, settings.rampup_steps)
    return {"weight_u": settings.lambda_u * ramp, "weight_pre": settings.lambda_pre * ramp}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of ReMixMatch, as many unlabelled as labelled samples (algorithm 1)."""
    assert all(view.shape == batch.x.shape for view in batch.u), "interleaving exchanges batches of one size"
    weak, *strong = batch.u
    rows, copies = len(batch.x), len(batch.u)

    if batch.probe is not None:
        assert learner.teacher is not None
        with torch.no_grad():
            probs = ops.softmax(learner.teacher(batch.probe, running=True))
        ctaugment.update(learner.state, batch.draws, ctaugment.closeness(probs, batch.y))

    # Guess from the weak view: one aligned and sharpened label for all views.
    with torch.no_grad():
        p = ops.softmax(learner.model(weak))
        y = ops.one_hot(batch.y, p.shape[1])
        q = ops.sharpen(aligned(p, y, learner.state) if settings.align else p, settings.temperature)

    # Mix labelled and unlabelled rows with one another.
    lam, partner = batch.draws["lam"], batch.draws["partner"]
    mixed = ops.mixup(torch.cat([batch.x, *batch.u]), lam, partner)
    targets = ops.mixup(torch.cat([y, *[q] * copies]), lam, partner)
    y_x, y_u = targets.split([rows, copies * rows])

    # Predict the mixed batches, after the first strong view as it is: BatchNorm's running statistics follow the last.
    alone = strong[:1] if settings.lambda_pre > 0 else []
    batches = [*alone, *ops.interleave(mixed.split(rows))]
    logits = learner.model(torch.cat(batches), groups=len(batches), update=len(batches) - 1).split(rows)
    z_x, *z_views = ops.interleave(logits[len(alone) :])
    z_u = torch.cat(z_views)

    loss_x = ops.cross_entropy(z_x, y_x).mean()
    error = ops.cross_entropy if settings.unlabeled_loss == "cross_entropy" else ops.squared_error
    loss_u = error(z_u, y_u).mean()
    weight_u = batch.schedule["weight_u"]
    total = loss_x + weight_u * loss_u
    metrics = {
        "loss_x": loss_x.detach(),
        "loss_u": loss_u.detach(),
        "weight_u": weight_u,
        "confidence": p.amax(1).mean(),
    }
    if settings.lambda_pre > 0:
        loss_pre = ops.cross_entropy(logits[0], q).mean()
        total = total + batch.schedule["weight_pre"] * loss_pre
        metrics["loss_pre"] = loss_pre.detach()
    if settings.lambda_rotation > 0:
        images, turned = rotate(strong[0])
        z_turned = learner.model(images, head="rotation")
        loss_rotation = ops.cross_entropy(z_turned, ops.one_hot(turned, 4)).mean()
        total = total + settings.lambda_rotation * loss_rotation
        metrics["loss_rotation"] = loss_rotation.detach()
    return Losses(total, metrics)


@torch.no_grad()
def aligned(p: Tensor, y: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Distribution alignment (§3.1): predictions [n, K] as they would be if classes were as frequent as labels have it.

    Both frequencies are those before this step; then its labels and predictions count too.
    """
    q = align(p, state["p_data"], state["p_model"].mean(0))
    state["p_data"].mul_(DATA_DECAY).add_((1 - DATA_DECAY) * y.mean(0))
    state["p_model"].copy_(torch.cat([state["p_model"][1:], p.mean(0, keepdim=True)]))
    return q


def align(p: Tensor, p_data: Tensor, p_model: Tensor) -> Tensor:
    """p · p_data / p_model, normalised: [n, K] by [K] to [n, K]."""
    q = p * (TINY + p_data) / (TINY + p_model)
    return q / q.sum(1, keepdim=True)


def rotate(images: Tensor) -> tuple[Tensor, Tensor]:
    """Square images [n, 3, S, S], n divisible by 4, turned by quarters of the batch: 0°, 180°, 90° left, 90° right.

    Returns:
        the images, and int64 [n], which turn: 0, 1, 2, 3.
    """
    upright, over, left, right = images.chunk(4)
    left, right = left.transpose(2, 3).flip(2), right.transpose(2, 3).flip(3)
    turned = torch.arange(4, device=images.device).repeat_interleave(len(images) // 4)
    return torch.cat([upright, over.flip(2, 3), left, right]), turned
