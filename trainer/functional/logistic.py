"""L2-regularised multinomial logistic regression by L-BFGS; its strength is chosen by cross-validation.

The minimum is that of scikit-learn's `LogisticRegression`: C · Σ cross-entropy + ½ ‖W‖², intercepts free. It is in the
span of the examples, so with fewer examples than features the problem is solved in their own few dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10.0**power for power in range(-6, 2))  # values of C, from the strongest penalty to the weakest
FOLDS = 5
EXACT, ROUGH = (500, 1e-7), (100, 1e-5)  # most iterations and the slope that ends them; rough is to rank strengths
ALONE = 1e-4  # C where a class has one example, so that none can be held out


def fit(x: Tensor, y: Tensor, num_classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Weights [K, D] and intercepts [K], float64.

    Args:
        x: float64 [n, D].
        y: int64 [n] in [0, K).
        num_classes: K.
        strength: C; the smaller, the stronger the penalty.
    """
    z, back = _own_dimensions(x)
    weights, bias = _minimise(z, y, num_classes, strength, None, EXACT)
    return weights @ back, bias


def choose(x: Tensor, y: Tensor, num_classes: int, seed: int) -> float:
    """The C of `STRENGTHS` with the least cross-entropy on held-out examples.

    Args:
        seed: of the folds, which hold every class in equal parts; the rest as in `fit`.

    Returns:
        C; `ALONE` where a class that has examples has only one.
    """
    counts = y.bincount(minlength=num_classes)
    folds = min(FOLDS, int(counts[counts > 0].min()))
    if folds < 2:
        return ALONE
    fold = _folds(y.numpy(), folds, seed)
    z, _ = _own_dimensions(x)
    losses = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    for held_out in range(folds):
        out = torch.from_numpy(fold == held_out)
        found = None  # each strength starts from the stronger one's solution
        for i, strength in enumerate(STRENGTHS):
            found = _minimise(z[~out], y[~out], num_classes, strength, found, ROUGH)
            losses[i] += F.cross_entropy(F.linear(z[out], *found), y[out], reduction="sum")
    return STRENGTHS[int(losses.argmin())]


def _own_dimensions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [n, r] of the examples in r ≤ D orthonormal directions [r, D]."""
    if len(x) >= x.shape[1]:
        return x, torch.eye(x.shape[1], dtype=x.dtype)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return u * s, v


def _folds(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each example, int64 [n]: the examples of a class are dealt out in a random order."""
    order = np.random.default_rng(seed).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % folds
    return fold


def _minimise(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    strength: float,
    start: tuple[Tensor, Tensor] | None,
    until: tuple[int, float],
) -> tuple[Tensor, Tensor]:
    weights = x.new_zeros(num_classes, x.shape[1]) if start is None else start[0].clone()
    bias = x.new_zeros(num_classes) if start is None else start[1].clone()
    variables = [weights.requires_grad_(), bias.requires_grad_()]
    most, tolerance = until
    optimizer = torch.optim.LBFGS(
        variables, max_iter=most, tolerance_grad=tolerance, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = 0.5 * weights.square().sum() / (strength * len(x))
        loss = F.cross_entropy(F.linear(x, weights, bias), y) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach(), bias.detach()
