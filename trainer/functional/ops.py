"""The tensor operations that the methods share: sharpen, guess, mixup, interleave, and losses of single rows.

Pure functions without randomness of their own, without waiting for the device and without shapes that depend on data:
they can be compiled. They compute in float32 under autocast (float64 stays float64) and never reduce over rows: which
rows count, and by what they are divided, is the method's decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-6  # added to frequencies that are divided


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: float32 for anything narrower, float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def widen(x: Tensor) -> Tensor:
    """The tensor in the type to compute in."""
    return x.to(wide(x.dtype))


def softmax(logits: Tensor) -> Tensor:
    """Probabilities [n, K]."""
    return F.softmax(widen(logits), dim=1)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Raise to 1/T and normalise (MixMatch eq. 7): [n, K] to [n, K], rows sum to 1.

    Divided by the row's maximum first, so that small probabilities at a small T cannot all underflow.
    """
    probs = widen(probs)
    power = (probs / probs.amax(1, keepdim=True)) ** (1 / temperature)
    return power / power.sum(1, keepdim=True)


def guess(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """One target for all views of a sample: average the predictions, then sharpen (MixMatch algorithm 1, lines 7–8).

    Args:
        logits: [n, K] of each view.

    Returns:
        [n, K] without gradient.
    """
    probs = torch.stack([softmax(z) for z in logits]).mean(0)
    return sharpen(probs, temperature).detach()


def align(probs: Tensor, wanted: Tensor | float, found: Tensor) -> Tensor:
    """Distribution alignment (ReMixMatch §3.1): p · wanted / found, normalised: [n, K] by frequencies [K] to [n, K]."""
    moved = probs * (TINY + wanted) / (TINY + found)
    return moved / moved.sum(1, keepdim=True)


def concatenate(chunks: Iterable[tuple[np.ndarray, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The outputs of a hook's `Predictor`, all chunks together: [n, …] by name, and their `position`, int64 [n]."""
    positions, outputs = zip(*chunks, strict=True)
    found = {name: torch.cat([out[name] for out in outputs]) for name in outputs[0]}
    return {"position": torch.from_numpy(np.concatenate(positions)), **found}


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """int64 [n] to float32 [n, K]."""
    return F.one_hot(labels, num_classes).to(torch.float32)


def smooth(targets: Tensor, amount: float) -> Tensor:
    """Label smoothing: move the share `amount` of every target to the uniform distribution. [n, K] to [n, K]."""
    return targets - amount * (targets - 1 / targets.shape[1])


def mixing_weights(rng: np.random.Generator, alpha: float, rows: int) -> np.ndarray:
    """MixUp's max(λ, 1 − λ), λ ~ Beta(α, α), drawn for each row by itself: float32 [rows] in [½, 1]."""
    lam = rng.beta(alpha, alpha, rows)
    return np.maximum(lam, 1 - lam).astype(np.float32)


def mirrored(rows: Tensor) -> Tensor:
    """MixUp's partners where a batch is mixed with its own reverse: int64 [n] for rows [n, …]."""
    return torch.arange(len(rows), device=rows.device).flip(0)


def mixup(rows: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    """λ·row + (1 − λ)·partner's row, each row with its own λ (MixMatch eq. 8–11).

    Args:
        rows: [n, …] images or targets.
        lam: float [n], already max(λ, 1 − λ).
        partner: int64 [n], the row to mix with.
    """
    rows = widen(rows)
    weight = lam.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1))
    return torch.lerp(rows[partner], rows, weight)  # exactly the row itself where it is its own partner


def pieces(rows: int, batches: int) -> list[int]:
    """Sizes of the pieces that `interleave` exchanges: as equal as can be, the longer ones last."""
    short, longer = divmod(rows, batches)
    return [short] * (batches - longer) + [short + 1] * longer


def interleave(batches: Sequence[Tensor]) -> list[Tensor]:
    """Exchange piece i of batch 0 with piece i of batch i, so that every batch holds labelled and unlabelled rows.

    Then the batch whose statistics BatchNorm keeps is a fair sample of all of them. Its own inverse: applied to the
    logits it puts every row back.

    Args:
        batches: k tensors [n, …] of equal shape; batch 0 is the labelled one.
    """
    sizes = pieces(len(batches[0]), len(batches))
    table = [list(batch.split(sizes)) for batch in batches]
    for i in range(1, len(table)):
        table[0][i], table[i][i] = table[i][i], table[0][i]
    return [torch.cat(row) for row in table]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−Σ_c target_c · ln softmax(logits)_c with soft targets [n, K]: one value a row, [n]."""
    return -(targets * F.log_softmax(widen(logits), dim=1)).sum(1)


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the classes of (target − softmax(logits))²: one value a row, [n]. Gradient through the logits alone."""
    return (softmax(logits) - targets.detach()).square().mean(1)


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(logits) ‖ softmax(other)): one value a row, [n]. Gradient through both."""
    log_p, log_q = F.log_softmax(widen(logits), dim=1), F.log_softmax(widen(other), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def entropy(logits: Tensor) -> Tensor:
    """−Σ_c p_c · ln p_c of p = softmax(logits): one value a row, [n]."""
    log_p = F.log_softmax(widen(logits), dim=1)
    return -(log_p.exp() * log_p).sum(1)
