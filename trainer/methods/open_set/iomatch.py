"""IOMatch (Li, Qi, Shi & Gao 2023): FixMatch with one class more, for all foreign images at once.

Multi-binary detectors say how likely an image is none of the class that the classifier sees in it. Together both give
a target over K + 1 classes, by which a second classifier learns from all confident images, the foreign ones too.
Targets are soft and not sharpened.

Differs from the official code:
- the projection's hidden layer has at most 512 units; there as many as there are features;
- strong views are FixMatch's; there RandAugment always makes three operations;
- the average over batches for the alignment is that of the batches so far; there zeros are averaged in at first;
- logarithms of the detectors' probabilities are exact; there ln(p + 1e-8).

Differs from the paper, as the code does: the open-set loss begins after 1,024 of 262,144 steps (`open_share`), and
values on a threshold count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.contract import Batch, Head, Learner, Losses, Rejection, Sizes, Views, option
from trainer.functional import one_vs_all, ops

NAME = "iomatch"
SUMMARY = "FixMatch, and a classifier with one class more for whatever is foreign"
HIDDEN, WIDTH = 512, 128  # of the projection: its hidden layer is as wide as the features, but no wider than this
HEADS = ("classes", "detector", "open")


@dataclass(frozen=True)
class Settings:
    """Settings of IOMatch."""

    lambda_u: float = option(1.0, "weight of the loss of confident inliers", min=0)
    lambda_detector: float = option(1.0, "weight of the multi-binary detectors' loss", min=0)
    lambda_open: float = option(1.0, "weight of the loss over K + 1 classes", min=0)
    threshold: float = option(0.95, "least confidence of an inlier that counts", min=0, max=1)
    threshold_open: float = option(0.5, "least confidence over K + 1 classes of a row that counts", min=0, max=1)
    open_share: float = option(1 / 256, "share of the run before the loss over K + 1 classes begins", min=0, max=1)
    align: bool = option(False, "align guesses to uniform classes; not where foreign images spoil the average")
    history: int = option(128, "batches whose mean guess the alignment starts from", min=1)
    ratio: int = option(7, "unlabelled images per labelled one", min=1)


PRESETS = {
    "any": {"run": {"optimizer": "sgd", "lr": 0.03, "lr_schedule": "cosine", "weight_decay": 5e-4}},
    "cifar100": {"align": True, "run": {"weight_decay": 1e-3}},
    "embeddings": {"threshold": 0.8, "ratio": 2},  # ours
}


def views(settings: Settings) -> Views:
    """A weak and a strong view of all training images; the new heads share a projection."""
    heads = (
        Head("projection", lambda classes, features: [min(features, HIDDEN), WIDTH], init="torch"),
        Head("detector", lambda classes, features: [2 * classes], bias=False, on="projection"),
        Head("open", lambda classes, features: [classes + 1], on="projection"),
    )
    return Views(
        unlabeled=("weak", "strong"), labeled_in_unlabeled=True, ratio=settings.ratio, policy="randaugment", heads=heads
    )


def init_state(sizes: Sizes, settings: Settings) -> dict[str, Tensor]:
    """With alignment `history`, float32 [H, K], mean guesses of the last batches, oldest first; 0 before there were."""
    return {"history": torch.zeros(settings.history, sizes.num_classes)} if settings.align else {}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_u; `weight_open`: 0, then λ_open."""
    late = step >= round(settings.open_share * steps)
    return {"weight_u": settings.lambda_u, "weight_open": settings.lambda_open * late}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of IOMatch (algorithm 1). All rows share one forward pass, which updates the running statistics."""
    out = learner.model(torch.cat([batch.x, *batch.u]), update=0, heads=HEADS)
    rows = [len(batch.x), *map(len, batch.u)]
    z_x, z_weak, z_strong = out["classes"].split(rows)
    d_x, d_weak, _ = one_vs_all.differences(out["detector"]).split(rows)
    *_, open_strong = out["open"].split(rows)

    # Targets over K and over K + 1 classes, from the weak views.
    with torch.no_grad():
        p = ops.softmax(z_weak)
        p = aligned(p, learner.state["history"]) if settings.align else p
        q = unified(p, torch.sigmoid(d_weak))
        inlier = (q[:, -1] < 0.5).to(q.dtype)
        keep = (p.amax(1) >= settings.threshold).to(p.dtype) * inlier
        keep_open = (q.amax(1) >= settings.threshold_open).to(q.dtype)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, p.shape[1])).mean()
    loss_detector = one_vs_all.hardest_negative(d_x, batch.y).mean()
    loss_u = (keep * ops.cross_entropy(z_strong, p)).mean()  # over all rows
    loss_open = (keep_open * ops.cross_entropy(open_strong, q)).mean()
    metrics = {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "loss_detector": loss_detector,
        "loss_open": loss_open,
        "kept": keep.mean(),
        "inliers": inlier.mean(),
        "kept_open": keep_open.mean(),
    }
    total = loss_x + settings.lambda_detector * loss_detector
    return Losses(total + batch.schedule["weight_u"] * loss_u + batch.schedule["weight_open"] * loss_open, metrics)


def unified(p: Tensor, r: Tensor) -> Tensor:
    """Guesses over K + 1 classes (eq. 5): each class k of p [n, K] gives 1 − r_k of its share to the foreign class.

    Args:
        r: [n, K], the detectors' p(this class).
    """
    known = p * r
    return torch.cat([known, (p - known).sum(1, keepdim=True)], 1)


def aligned(p: Tensor, history: Tensor) -> Tensor:
    """Guesses [n, K] as they would be if all classes were as frequent; this batch already belongs to the history."""
    history.copy_(torch.cat([history[1:], p.mean(0, keepdim=True)]))
    return ops.align(p, 1 / p.shape[1], history.sum(0) / history.sum())


def judge(outputs: Mapping[str, Tensor]) -> Rejection:
    """The classifier with K + 1 classes decides; its last probability is the score."""
    q = ops.softmax(outputs["open"])
    return Rejection(q[:, -1], q.argmax(1))
