"""Losses and their slopes in plain float64 NumPy, for references of whole steps: each gives its value and dvalue/dz.

Written from the formulas, without a look at the trainer's own operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose
from torch import Tensor, nn

from trainer.contract import Losses

Array = np.ndarray


def flat(images: Tensor) -> Array:
    """Images as float64 [n, C·H·W]."""
    return images.detach().double().numpy().reshape(len(images), -1)


def logits(head: nn.Linear, rows: Array) -> Array:
    return rows @ head.weight.detach().numpy().T + head.bias.detach().numpy()


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def predict(head: nn.Linear, images: Tensor | Array) -> Array:
    return softmax(logits(head, images if isinstance(images, np.ndarray) else flat(images)))


def hot(labels: Tensor | Array, classes: int) -> Array:
    return np.eye(classes)[np.asarray(labels)]


def blend(rows: Array, lam: Any, partner: Any) -> Array:
    lam, partner = np.asarray(lam, np.float64)[:, None], np.asarray(partner)
    return lam * rows + (1 - lam) * rows[partner]


def cross_entropy(z: Array, target: Array, weight: Array | float = 1.0) -> tuple[float, Array]:
    """Mean over the rows of weight · cross-entropy with a target that has no gradient."""
    p, n = softmax(z), len(z)
    weight = np.broadcast_to(weight, n)
    return float((weight * -(target * np.log(p)).sum(1)).mean()), weight[:, None] * (p - target) / n


def squared_error(z: Array, target: Array, weight: Array | float = 1.0) -> tuple[float, Array]:
    """Mean over rows and classes of weight · (softmax(z) − target)²."""
    p, gap, weight = softmax(z), softmax(z) - target, np.broadcast_to(weight, len(z))[:, None]
    return float((weight * gap**2).mean()), weight * 2 * p * (gap - (p * gap).sum(1, keepdims=True)) / p.size


def matches(
    losses: Losses, head: nn.Linear, parts: list[tuple[Array, Array]], tolerance: float = 1e-9, **values: float
) -> None:
    """Assert the losses named in `values` ("total" among them) and the gradient of the total.

    Args:
        parts: pairs of rows [n, C·H·W] and the slope of the total in their logits [n, K].
    """
    for name, value in values.items():
        actual = losses.total if name == "total" else losses.metrics[name]
        assert_allclose(actual.item(), value, rtol=tolerance, atol=1e-12, err_msg=name)
    losses.total.backward()
    assert head.weight.grad is not None
    assert head.bias.grad is not None
    weight = sum(slope.T @ rows for rows, slope in parts)
    bias = sum(slope.sum(0) for _, slope in parts)
    assert_allclose(head.weight.grad, weight, rtol=tolerance, atol=tolerance * np.abs(weight).max())
    assert_allclose(head.bias.grad, bias, rtol=tolerance, atol=tolerance * np.abs(weight).max())
