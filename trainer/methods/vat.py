"""Virtual adversarial training (Miyato et al. 2018), with or without entropy minimisation (VAT + EntMin).

An unlabelled image that is moved by ε in the direction that changes its prediction most should be predicted as before.
The direction is one power iteration: noise, then the gradient of the divergence.

Differs from the official code (MixMatch's):
- the loss is the paper's KL(clean ‖ adversarial); `direction=mixmatch` turns it round as the code does;
- ξ is 1e-2 instead of 1e-6, and the direction is never found under autocast. In float32 its cosine with the true one is
  .999 (WRN-10-1); ξ = 1e-6 leaves rounding noise (.07), and so does TF32 (.46), which training turns off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainer.contract import Batch, Learner, Losses, Network, Sizes, Views, option
from trainer.functional import ops, schedules

NAME = "vat"
SUMMARY = "virtual adversarial training; with or without entropy minimisation"


@dataclass(frozen=True)
class Settings:
    """Settings of VAT. Distances are Euclidean, of whole images in [−1, 1]."""

    lambda_u: float = option(0.3, "weight of the adversarial loss once the ramp is over", min=0)
    epsilon: float = option(6.0, "distance that an adversarial image is moved", above=0)
    xi: float = option(1e-2, "length of the noise that the direction is found with", above=0)
    entropy: float = option(0.06, "weight of the predictions' entropy, from the first step; 0: VAT alone", min=0)
    direction: Literal["paper", "mixmatch"] = option(
        "paper", "paper: KL(clean ‖ adversarial); mixmatch: KL(adversarial ‖ clean), as in MixMatch's code"
    )
    rampup_share: float = option(0.4, "share of the run over which the adversarial loss grows linearly", min=0, max=1)


PRESETS = {
    "cifar10": {"lambda_u": 0.3, "epsilon": 6.0, "entropy": 0.06, "run": {"weight_decay": 0.02}},
    "svhn": {"lambda_u": 0.3, "epsilon": 6.0, "entropy": 0.06},
    "digits": {"epsilon": 1.5},  # ours; 8×8 pixels: the same distance a pixel as 6 among 32×32
}


def views(settings: Settings) -> Views:
    """One weak view; the labelled images are not in the unlabelled set. The direction needs a gradient of its own."""
    return Views(unlabeled=("weak",), one_graph=False)


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """`noise` float32 [U, 3, H, W], standard normal: where the power iteration starts."""
    return {"noise": rng.standard_normal((sizes.unlabeled, *sizes.input_shape), np.float32)}


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp."""
    return {"weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_share * steps)}


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step, as many unlabelled as labelled images."""
    (u,) = batch.u
    clean, r = adversary(learner.model, u, batch.draws["noise"], settings.xi, settings.epsilon)

    # BatchNorm's running statistics follow the labelled images. The entropy needs the clean images with a gradient.
    rows = [batch.x, u + r] + [u] * (settings.entropy > 0)
    z_x, z_moved, *z_u = learner.model(torch.cat(rows), groups=len(rows), update=0).chunk(len(rows))

    loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()
    pair = (clean, z_moved) if settings.direction == "paper" else (z_moved, clean)
    loss_u = ops.kl_divergence(*pair).mean()
    entropy = ops.entropy(*z_u or [clean]).mean()
    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "weight_u": weight_u,
        "entropy": entropy,
        "confidence": ops.softmax(clean).amax(1).mean(),
    }
    return Losses(loss_x + weight_u * loss_u + settings.entropy * entropy, metrics)


def adversary(network: Network, u: Tensor, noise: Tensor, xi: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """Clean logits [n, K], and the step r [n, …] of length ε that changes each row's prediction most; no gradient.

    r is 0 where the divergence has no slope, which includes rows that another process computes. Parameters' gradients
    and running statistics stay as they are.
    """
    with torch.autocast(u.device.type, enabled=False):
        with torch.no_grad():
            clean = network(u)  # in the precision of the noisy one, whose difference to it is the signal
        near = (u + xi * unit(noise)).requires_grad_()  # the compiler wants a leaf; the slope in d is the slope here
        divergence = ops.kl_divergence(clean, network(near)).mean()
        (slope,) = torch.autograd.grad(divergence, near)
        return clean, epsilon * unit(slope)


def unit(rows: Tensor) -> Tensor:
    """Every row [n, …] scaled to length 1; zeros stay zeros. Divides by the maximum first, against underflow."""
    axes = tuple(range(1, rows.dim()))
    rows = rows / (1e-12 + rows.abs().amax(axes, keepdim=True))
    return rows / (1e-6 + rows.square().sum(axes, keepdim=True)).sqrt()
