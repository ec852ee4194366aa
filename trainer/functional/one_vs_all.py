"""One-vs-all heads (OVANet, Saito & Saenko 2021): for each class, "not this class" against "this class".

The 2K logits of an image are [2, K], those of "not" first; read as [K, 2] a head trains without an error and tells
nothing. A softmax over a pair is the sigmoid of its difference, so all here is computed from the differences [n, K].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.functional.ops import one_hot, widen


def differences(logits: Tensor) -> Tensor:
    """Logits [n, 2K] to [n, K], "this class" minus "not": their sigmoid is p(this class)."""
    out, in_ = widen(logits).chunk(2, dim=1)
    return in_ - out


def hardest_negative(d: Tensor, labels: Tensor) -> Tensor:
    """−ln p(in) of an image's own class, and −ln p(out) of the other class that is most sure of it: one value a row.

    Args:
        d: [n, K], K > 1.
        labels: int64 [n].
    """
    own = one_hot(labels, d.shape[1]).to(d.dtype)
    others = F.softplus(d).masked_fill(own.bool(), 0)  # softplus is positive, so that 0 is never the largest
    return F.softplus(-(d * own).sum(1)) + others.amax(1)


def entropy(d: Tensor) -> Tensor:
    """Entropy of each pair, mean over the classes: [n, K] to [n] in [0, ln 2]."""
    p = torch.sigmoid(d)
    return (p * F.softplus(-d) + (1 - p) * F.softplus(d)).mean(1)


def disagreement(d: Tensor, other: Tensor) -> Tensor:
    """Squared differences of the probabilities of two views, summed over pairs and classes: [n, K] twice to [n]."""
    return 2 * (torch.sigmoid(d) - torch.sigmoid(other)).square().sum(1)


def outlier_score(d: Tensor, logits: Tensor) -> Tensor:
    """p(not k) of the class k that the classifier predicts: differences and class logits [n, K] to [n] in [0, 1]."""
    predicted = logits.argmax(1, keepdim=True)
    return torch.sigmoid(-d.gather(1, predicted)).squeeze(1)
