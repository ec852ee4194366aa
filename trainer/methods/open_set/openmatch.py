"""OpenMatch (Saito, Kim & Saenko 2021): FixMatch on the images that a one-vs-all detector takes for known ones.

The detector learns from labels (OVANet), from the entropy of its answers and from their agreement over two weak views
(soft consistency). After a warm-up the averaged network judges the whole pool again and again; strong views are made
of the images that it does not reject.

Differs from the official code:
- one forward pass a step updates BatchNorm's running statistics, that of the labelled images and the pool; there the
  pass of pseudo-inliers does too;
- both labelled views are weak; there the first is only mirrored;
- the pool's plain images are judged; there mirrored ones;
- with fewer than `fewest` pseudo-inliers the last set stays; there training ends with an error;
- probabilities' logarithms are exact; there ln(p + 1e-8);
- a run shorter than 20 · `every` steps judges the pool 20 times.

Differs from the paper, as the code does: entropy is a mean over the classes, not a sum, and `threshold` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.contract import WEAK, Batch, Head, Learner, Losses, Predictor, Rejection, Sizes, Views, option
from trainer.functional import one_vs_all, ops

NAME = "openmatch"
SUMMARY = "FixMatch on the unlabelled images that one detector a class does not reject"
JUDGEMENTS = 20  # of the pool, at least
HEADS = ("classes", "detector")


@dataclass(frozen=True)
class Settings:
    """Settings of OpenMatch."""

    lambda_u: float = option(1.0, "weight of FixMatch's loss once the warm-up is over", min=0)
    lambda_entropy: float = option(0.1, "weight of the detector's entropy", min=0)
    lambda_consistency: float = option(0.5, "weight of the detector's soft consistency; 1 for CIFAR-100", min=0)
    threshold: float = option(0.0, "least confidence of a pseudo-inlier that counts", min=0, max=1)
    warmup_share: float = option(10 / 512, "share of the run before pseudo-inliers count", min=0, max=1)
    every: int = option(1024, "steps between two judgements of the pool", min=1)
    fewest: int = option(128, "pseudo-inliers below which the last set stays", min=1)
    ratio: int = option(2, "unlabelled images per labelled one, and pseudo-inliers", min=1)


PRESETS = {
    "any": {"run": {"optimizer": "sgd", "lr": 0.03, "lr_schedule": "cosine", "weight_decay": 5e-4}},
    "cifar100": {"lambda_consistency": 1.0},
    "embeddings": {"threshold": 0.8},  # FixMatch's there
}


def views(settings: Settings) -> Views:
    """Two weak views of all images, and of pseudo-inliers a weak and a strong one."""
    return Views(
        labeled=WEAK * 2,
        unlabeled=WEAK * 2,
        second=("weak", "strong"),
        ratio=settings.ratio,
        policy="randaugment",
        heads=(Head("detector", lambda classes, features: [2 * classes], bias=False),),
    )


def init_state(sizes: Sizes, settings: Settings) -> dict[str, Tensor]:
    """`second`: bool [N_u], the pseudo-inliers, first all; `inliers` [], their share of the pool when last judged."""
    return {"second": torch.ones(sizes.num_unlabeled, dtype=torch.bool), "inliers": torch.ones(())}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u`: 0, and λ_u once the pool has been judged."""
    return {"weight_u": settings.lambda_u if step >= warmup(steps, settings) else 0.0}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of OpenMatch (algorithm 1)."""
    # Labelled images and the whole pool, two views each, in one pass.
    x, u = (batch.x, *batch.more_x), batch.u
    out = learner.model(torch.cat([*x, *u]), update=0, heads=HEADS)
    rows = [sum(map(len, x)), len(u[0]), len(u[1])]
    z_x, d = out["classes"][: rows[0]], one_vs_all.differences(out["detector"])
    d_x, d_1, d_2 = d.split(rows)
    y = torch.cat([batch.y] * len(x))
    loss_x = ops.cross_entropy(z_x, ops.one_hot(y, z_x.shape[1])).mean()
    loss_detector = one_vs_all.hardest_negative(d_x, y).mean()
    loss_entropy = torch.cat([one_vs_all.entropy(d_1), one_vs_all.entropy(d_2)]).mean()
    loss_consistency = one_vs_all.disagreement(d_1, d_2).mean()

    # FixMatch on pseudo-inliers, with the statistics of their own batch.
    z_weak, z_strong = learner.model(torch.cat(batch.second)).chunk(2)
    confidence, label = ops.softmax(z_weak.detach()).max(1)
    keep = (confidence >= settings.threshold).to(confidence.dtype)
    loss_u = (keep * ops.cross_entropy(z_strong, ops.one_hot(label, z_x.shape[1]))).mean()

    total = loss_x + loss_detector + batch.schedule["weight_u"] * loss_u
    total = total + settings.lambda_entropy * loss_entropy + settings.lambda_consistency * loss_consistency
    metrics = {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "loss_detector": loss_detector,
        "loss_entropy": loss_entropy,
        "loss_consistency": loss_consistency,
        "kept": keep.mean(),
        "inliers": learner.state["inliers"].clone(),
    }
    return Losses(total, metrics)


def hook_every(steps: int, settings: Settings) -> int:
    """`every`; in a short run more often."""
    return max(1, min(settings.every, steps // JUDGEMENTS))


def warmup(steps: int, settings: Settings) -> int:
    """Steps before pseudo-inliers count: whole periods of the hook, one at least."""
    every = hook_every(steps, settings)
    return every * max(1, -(-round(settings.warmup_share * steps) // every))


def hook(predictor: Predictor, state: dict[str, Tensor], settings: Settings) -> None:
    """Judge the whole pool, not only those that are in: a rejected image may come back."""
    if predictor.step < warmup(predictor.steps, settings):
        return
    inlier = torch.zeros_like(state["second"])
    for positions, outputs in predictor.unlabeled(*HEADS):
        inlier[torch.from_numpy(positions)] = (judge(outputs).score < 0.5).to(inlier.device)
    state["inliers"].copy_(inlier.to(torch.float32).mean())
    if int(inlier.sum()) >= settings.fewest:
        state["second"].copy_(inlier)


def judge(outputs: Mapping[str, Tensor]) -> Rejection:
    """The detector of the predicted class decides; rejected above ½."""
    logits = outputs["classes"]
    score = one_vs_all.outlier_score(one_vs_all.differences(outputs["detector"]), logits)
    return Rejection(score, torch.where(score > 0.5, logits.shape[1], logits.argmax(1)))
