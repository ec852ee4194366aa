"""UASD (Chen, Zhu, Li & Gong 2020): an image's target is the mean of all that was ever predicted for it.

Such targets are soft, and flat where predictions contradict one another; an image whose target is not above the mean of
the validation images' does not count.

Differs from the official code, whose published script cannot run:
- validation images are predicted now and then, by the averaged weights in evaluation mode; there ten in each step's
  batch, in training mode. Without any the threshold stays .9;
- only unlabelled images count in the unlabelled loss; there labelled ones too;
- the gate and the ramp are shares of the run; there steps of 500,000;
- the rate is constant; there it falls to a fifth at four fifths of the run;
- the averaged weights are evaluated; there the live ones (a run's `raw_error_last`).

The state takes 4 · N_u · K bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.contract import WEAK, Batch, Learner, Losses, Predictor, Sizes, Views, option
from trainer.functional import masks, ops

NAME = "uasd"
SUMMARY = "the mean of an image's own past predictions is its target, where that is sure enough"
JUDGEMENTS, MOST = 100, 1024  # of the validation images: at least so many, at most so many steps apart


@dataclass(frozen=True)
class Settings:
    """Settings of UASD."""

    lambda_u: float = option(1.0, "weight of the unlabelled loss once the ramp is over", min=0)
    gate_share: float = option(0.2, "share of the run before the unlabelled loss begins", min=0, max=1)
    rampup_share: float = option(0.4, "share of the run after which it has its whole weight", min=0, max=1)
    threshold: float = option(
        0.9, "least confidence of a row that counts, until validation images say it", min=0, max=1
    )


PRESETS = {"any": {"run": {"lr": 1e-3, "weight_decay": 0.0}}}


def views(settings: Settings) -> Views:
    """One weak view; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=WEAK)


def init_state(sizes: Sizes, settings: Settings) -> dict[str, Tensor]:
    """Sums of probabilities, float32 [N_u, K] and, of validation images, [N_v, K]; `threshold` []."""
    sums = {"sums": sizes.num_unlabeled, "valid": sizes.num_valid}
    state = {name: torch.zeros(rows, sizes.num_classes) for name, rows in sums.items() if rows}
    return state | {"threshold": torch.tensor(settings.threshold)}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u`: 0 before the gate, then λ_u · exp(−5(1 − t)²) with t = 1 at the end of the ramp."""
    if step < settings.gate_share * steps:
        return {"weight_u": 0.0}
    ramp = settings.rampup_share * steps
    gap = max(0.0, 1 - step / ramp) if ramp else 0.0
    return {"weight_u": settings.lambda_u * math.exp(-5 * gap**2)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of UASD. Labelled and unlabelled rows share one forward pass, which updates the running statistics."""
    (u,), state = batch.u, learner.state
    assert batch.u_id is not None
    z_x, z_u = learner.model(torch.cat([batch.x, u]), update=0).split([len(batch.x), len(u)])

    # Targets from earlier predictions alone; then this one belongs to them. An image that is new does not count.
    with torch.no_grad():
        q = mean(state["sums"][batch.u_id])
        state["sums"].index_add_(0, batch.u_id, ops.softmax(z_u).to(state["sums"].dtype))
        confidence = q.amax(1)
        keep = (confidence >= state["threshold"]).to(q.dtype)

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    loss_u = masks.kept_mean(ops.cross_entropy(z_u, q), keep)
    metrics = {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "kept": keep.mean(),
        "confidence": confidence.mean(),
        "threshold": state["threshold"].clone(),
    }
    return Losses(loss_x + batch.schedule["weight_u"] * loss_u, metrics)


def mean(sums: Tensor) -> Tensor:
    """Sums of probabilities [n, K] to their mean; zeros stay zeros."""
    return sums / sums.sum(1, keepdim=True).clamp(min=1)


def hook_every(steps: int, settings: Settings) -> int:
    """A hundredth of the run, no more than 1,024 steps."""
    return max(1, min(MOST, steps // JUDGEMENTS))


def hook(predictor: Predictor, state: dict[str, Tensor], settings: Settings) -> None:
    """Add to the validation images' sums; their mean confidence is the threshold."""
    if "valid" not in state:
        return
    outputs = ops.concatenate(predictor.valid("classes"))
    state["valid"] += ops.softmax(outputs["classes"]).to(state["valid"])
    state["threshold"].copy_(mean(state["valid"]).amax(1).mean())
