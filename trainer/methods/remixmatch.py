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

Differs from the paper, as the code does:
- fixed quarters of the shuffled batch are rotated; in the paper each image by a random turn;
- CTAugment's weights are divided by the largest before they are compared with .8; in the paper they are not.

The preset for the digits is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stores.errors import UsageError
from trainer.augment import ctaugment
from trainer.contract import STRONG, WEAK, Batch, Head, Learner, Losses, Sizes, Views, option
from trainer.functional import mixmatch, ops, schedules

NAME = "remixmatch"
SUMMARY = "MixMatch with distribution alignment, strong views anchored to a weak one, and rotations"
HISTORY = 128  # batches whose predictions say how often the network predicts each class
DATA_DECAY = 0.999  # of the average that says how often the labels have it


@dataclass(frozen=True)
class Settings:
    """Settings of ReMixMatch."""

    strong_views: int = option(8, "strong views of each unlabelled image (K)", min=1)
    alpha: float = option(0.75, "MixUp: λ ~ Beta(α, α), one for each image", above=0)
    temperature: float = option(0.5, "sharpening temperature of the guessed labels", above=0)
    lambda_u: float = option(1.5, "weight of the unlabelled loss once the ramp is over", min=0)
    lambda_pre: float = option(
        0.5, "weight of the first strong view's loss without MixUp, once the ramp is over", min=0
    )
    lambda_rotation: float = option(0.5, "weight of the rotation loss, from the start; 0: no such head", min=0)
    rampup_steps: int = option(16384, "steps over which the unlabelled losses grow linearly", min=0)
    align: bool = option(True, "distribution alignment of the guesses")
    policy: Literal["ctaugment", "none"] = option(
        "ctaugment", "what makes the strong views: ctaugment, or none (weak views instead)"
    )
    unlabeled_loss: Literal["cross_entropy", "squared_error"] = option(
        "cross_entropy", "cross_entropy, or squared_error as in MixMatch"
    )
    cta_legacy: bool = option(False, "CTAugment translates by fractions of a pixel, as in the authors' code")


PRESETS = {
    "stl10": {"strong_views": 4},
    "embeddings": {"strong_views": 4, "policy": "none", "lambda_rotation": 0.0},  # ours; there is nothing to rotate
    "digits": {"strong_views": 2, "rampup_steps": 300},  # ours; runs of about a thousand steps
}


def views(settings: Settings) -> Views:
    """A weak view and K strong ones of all training images; a strong view of the labelled ones, and the probe."""
    heads = (Head("rotation", lambda classes, features: [4]),) if settings.lambda_rotation > 0 else ()
    if settings.policy == "none":
        pixels = "it rotates images: --set lambda_rotation=0 leaves that out" if heads else ""
        return Views(
            unlabeled=WEAK * (1 + settings.strong_views), labeled_in_unlabeled=True, heads=heads, pixels=pixels
        )
    return Views(
        labeled=("strong", "probe"),
        unlabeled=WEAK + STRONG * settings.strong_views,
        labeled_in_unlabeled=True,
        policy="ctaugment",
        cta_legacy=settings.cta_legacy,
        heads=heads,
        teacher=True,
        pixels="CTAugment changes pixels: --set policy=none takes copies in the place of its views",
    )


def check(sizes: Sizes, settings: Settings) -> None:
    """Raises UsageError unless a quarter of the batch can be rotated each way."""
    if settings.lambda_rotation == 0:
        return
    if sizes.labeled % 4:
        why = "a quarter of its images is rotated each way"
        raise UsageError(f"'batch={sizes.labeled}' is out of range", f"'batch' must be a multiple of 4: {why}")
    height, width = sizes.image_size
    if height != width:
        raise UsageError(
            "images must be square to be rotated",
            f"these are {height} pixels high, {width} wide",
            "--set lambda_rotation=0 trains without rotations",
        )


def init_state(sizes: Sizes, settings: Settings) -> dict[str, Tensor]:
    """CTAugment's weights and, for the alignment, averages that start uniform.

    p_data: float32 [K], of the labels; p_model: float32 [128, K], of the predictions for each of the last batches,
    oldest first.
    """
    state = ctaugment.init_state() if settings.policy == "ctaugment" else {}
    if settings.align:
        uniform = torch.full((sizes.num_classes,), 1 / sizes.num_classes)
        state |= {"p_data": uniform, "p_model": uniform.repeat(HISTORY, 1)}
    return state


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """MixUp over all n = B + (K+1)·U rows: `lam` float32 [n] = max(λ, 1 − λ), `partner` int64 [n], a permutation."""
    return mixmatch.draw(rng, settings.alpha, sizes.labeled + (1 + settings.strong_views) * sizes.unlabeled)


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` and `weight_pre`: λ_u and λ_pre times their ramp."""
    ramp = schedules.linear_ramp(step, settings.rampup_steps)
    return {"weight_u": settings.lambda_u * ramp, "weight_pre": settings.lambda_pre * ramp}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of ReMixMatch (algorithm 1), with as many unlabelled as labelled samples."""
    weak, *strong = batch.u
    ctaugment.learn(learner.teacher, batch, learner.state)

    # Guess from the weak view: one aligned and sharpened label for all views.
    with torch.no_grad():
        p = ops.softmax(learner.model(weak))
        y = ops.one_hot(batch.y, p.shape[1])
        q = ops.sharpen(aligned(p, y, learner.state) if settings.align else p, settings.temperature)

    # Mix and predict, with the first strong view unmixed before them: the last batch updates the running statistics.
    first = strong[:1] if settings.lambda_pre > 0 else []
    mixed = mixmatch.mix_and_predict(
        learner.model, batch.x, batch.y, batch.u, q, batch.draws, first, update=len(first) + len(batch.u)
    )
    loss_x = ops.cross_entropy(mixed.z_x, mixed.y_x).mean()
    error = ops.cross_entropy if settings.unlabeled_loss == "cross_entropy" else ops.squared_error
    loss_u = error(mixed.z_u, mixed.y_u).mean()
    weight_u = batch.schedule["weight_u"]
    total = loss_x + weight_u * loss_u
    metrics = {"loss_x": loss_x, "loss_u": loss_u, "weight_u": weight_u, "confidence": p.amax(1).mean()}
    if settings.lambda_pre > 0:
        loss_pre = metrics["loss_pre"] = ops.cross_entropy(mixed.z_first, q).mean()
        total = total + batch.schedule["weight_pre"] * loss_pre
    if settings.lambda_rotation > 0:
        images, turned = rotate(strong[0])
        z_turned = learner.model(images, heads=("rotation",))["rotation"]
        loss_rotation = metrics["loss_rotation"] = ops.cross_entropy(z_turned, ops.one_hot(turned, 4)).mean()
        total = total + settings.lambda_rotation * loss_rotation
    return Losses(total, metrics)


@torch.no_grad()
def aligned(p: Tensor, y: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Distribution alignment (§3.1): predictions [n, K] as they would be if classes were as frequent as labels have it.

    Both frequencies are those before this step; then its labels and predictions count too.
    """
    q = ops.align(p, state["p_data"], state["p_model"].mean(0))
    state["p_data"].mul_(DATA_DECAY).add_((1 - DATA_DECAY) * y.mean(0))
    state["p_model"].copy_(torch.cat([state["p_model"][1:], p.mean(0, keepdim=True)]))
    return q


def rotate(images: Tensor) -> tuple[Tensor, Tensor]:
    """Square images [n, 3, S, S], n divisible by 4, turned by quarters of the batch: 0°, 180°, 90° left, 90° right.

    Returns:
        the images, and int64 [n], which turn: 0, 1, 2, 3.
    """
    upright, over, left, right = images.chunk(4)
    left, right = left.transpose(2, 3).flip(2), right.transpose(2, 3).flip(3)
    turned = torch.arange(4, device=images.device).repeat_interleave(len(images) // 4)
    return torch.cat([upright, over.flip(2, 3), left, right]), turned
