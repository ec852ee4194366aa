"""FreeMatch (Wang et al. 2023): FixMatch with thresholds per class that follow the network's own confidence.

The global threshold is an average of the confidence; a class's share of it follows how often it is predicted. The sign
of the fairness term (SAF) is that of both official codes, by which descent pushes the two distributions apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Sizes, Views, option
from trainer.functional import ops

NAME = "freematch"
SUMMARY = "FixMatch with thresholds for each class that follow the network's confidence"


@dataclass(frozen=True)
class Settings:
    """Settings of FreeMatch."""

    lambda_u: float = option(1.0, "weight of the unlabelled loss", min=0)
    lambda_f: float = option(0.01, "weight of the fairness term; USB has 0.001", min=0)
    saf_sign: int = option(1, "sign of the fairness term; -1 is the opposite of what was published", min=-1, max=1)
    decay: float = option(0.999, "of the averages that the thresholds come from", min=0, below=1)
    least: float = option(0.0, "smallest threshold", min=0, max=1)
    most: float = option(1.0, "largest threshold", min=0, max=1)
    ratio: int = option(7, "unlabelled images per labelled one", min=1)


PRESETS = {
    "any": {"run": {"optimizer": "sgd", "lr": 0.03, "lr_schedule": "cosine", "weight_decay": 5e-4}},
    "cifar100": {"run": {"weight_decay": 1e-3}},
    "svhn": {"least": 0.9, "most": 0.95},
}


def views(settings: Settings) -> Views:
    """A weak and a strong view of all training images."""
    return Views(unlabeled=("weak", "strong"), labeled_in_unlabeled=True, ratio=settings.ratio, policy="randaugment")


def init_state(sizes: Sizes, settings: Settings) -> dict[str, Tensor]:
    """Averages of the weak views' confidence `tau` [], predictions `p` [K] and predicted classes `h` [K], first 1/K."""
    k = sizes.num_classes
    return {name: torch.full(shape, 1 / k) for name, shape in (("tau", ()), ("p", (k,)), ("h", (k,)))}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_u, without a ramp."""
    return {"weight_u": settings.lambda_u}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of FreeMatch (algorithm 1). All rows share one forward pass, which updates the running statistics."""
    logits = learner.model(torch.cat([batch.x, *batch.u]), update=0)
    z_x, z_weak, z_strong = logits.split([len(batch.x), *map(len, batch.u)])

    # Thresholds from averages that this batch already belongs to.
    probs = ops.softmax(z_weak.detach())
    confidence, label = probs.max(1)
    target = ops.one_hot(label, probs.shape[1])
    new = {"tau": confidence.mean(), "p": probs.mean(0), "h": target.mean(0)}
    tau, p, h = (learner.state[k].mul_(settings.decay).add_((1 - settings.decay) * x).clone() for k, x in new.items())
    threshold = (tau * p / p.max()).clamp(settings.least, settings.most)
    keep = (confidence >= threshold[label]).to(confidence.dtype)
    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, probs.shape[1])).mean()
    loss_u = (keep * ops.cross_entropy(z_strong, target)).mean()  # over all rows
    loss_f = fairness(z_strong, keep, p, h)
    metrics = {"loss_x": loss_x, "loss_u": loss_u, "loss_f": loss_f, "kept": keep.mean(), "tau": tau}
    return Losses(
        loss_x + batch.schedule["weight_u"] * loss_u + settings.saf_sign * settings.lambda_f * loss_f, metrics
    )


def fairness(z: Tensor, keep: Tensor, p: Tensor, h: Tensor) -> Tensor:
    """Σ_c a_c ln b_c with a ∝ p/h of the averages and b ∝ p/h of the kept rows' predictions z [n, K]; 0 if none is."""
    weight = (keep / keep.sum().clamp(min=1)).unsqueeze(1)
    rows = (ops.softmax(z), ops.one_hot(z.detach().argmax(1), z.shape[1]))
    a, b = ratio(p, h), ratio(*((weight * row).sum(0) for row in rows))
    return (a * (b + 1e-12).log()).sum() * keep.amax()


def ratio(p: Tensor, h: Tensor) -> Tensor:
    """p/h [K], 0 where h is, normalised."""
    found = torch.where(h > 0, p / torch.where(h > 0, h, 1), 0)
    return found / found.sum().clamp(min=1e-12)
