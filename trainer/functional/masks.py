"""Which rows count in a loss: training-signal annealing, out-of-distribution masking, and the mean over what is kept.

Masks are float [n], 1 = kept, without gradient. Pure functions: no waiting for the device, no shape that depends on
data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.functional.ops import softmax, wide, widen


def tsa_mask(logits: Tensor, targets: Tensor, threshold: Tensor | float, legacy: bool = False) -> Tensor:
    """Training-signal annealing for soft labels (RealMix; after UDA): drop the rows that are already learnt.

    A row is kept when for some class with target_c > 0 the prediction is still below target_c · η; with hard labels
    that is p_y < η, so a row on the threshold is dropped.

    Args:
        logits: [n, K] of the student.
        targets: [n, K].
        threshold: η in [1/K, 1], 0-dim.
        legacy: compare as the authors' code does, with logit_c · η over all classes. There any positive logit of
            another class keeps the row, so hardly one is ever dropped.
    """
    z, p, labelled = widen(logits.detach()), softmax(logits.detach()), targets > 0
    if legacy:
        below = p * labelled < z * threshold
    else:
        below = (p < targets * threshold) & labelled
    return below.any(1).to(p.dtype)


def ood_mask(confidence: Tensor, gamma: float | Tensor, strict: bool = False) -> Tensor:
    """Out-of-distribution mask (RealMix): drop the share γ of the rows with the least confidence.

    By rank: exactly ⌊γn⌋ rows are dropped, of equal confidence the first ones; γ = 0 keeps all, γ = 1 none; a larger γ
    keeps a subset of what a smaller one keeps.

    Args:
        confidence: [n].
        gamma: in [0, 1], a number or 0-dim on the same device.
        strict: keep what exceeds the ⌊γn⌋-th smallest confidence (counted from 0), as the authors' code does: one row
            more is dropped, and with it all its equals.
    """
    confidence = confidence.detach()
    rows, device = len(confidence), confidence.device
    share = gamma if isinstance(gamma, Tensor) else torch.full((), gamma, dtype=torch.float64, device=device)
    drop = (share.to(torch.float64) * rows + 1e-6).to(torch.int64)  # .29 · 100 is 28.999… in floating point
    order = confidence.argsort(stable=True)
    if strict:
        last = confidence[order].index_select(0, drop.clamp(max=rows - 1).view(1))
        keep = (confidence > last) | (share <= 0)
    else:
        rank = torch.empty_like(order).scatter(0, order, torch.arange(rows, device=device))
        keep = rank >= drop
    return keep.to(wide(confidence.dtype))


def kept_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of [n] values over the kept rows: its scale does not depend on how many there are. 0 when there are none."""
    return (values * keep).sum() / keep.sum().clamp(min=1)
