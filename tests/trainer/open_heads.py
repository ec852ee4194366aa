"""A network whose heads are linear in its float64 images, so that gradients can be written down; detectors in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy_losses as reference
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from trainer.contract import Losses

Array = np.ndarray
K = 4


class Heads(nn.Module):
    """Classes, a detector of each and K + 1 classes from images [n, 3, 2, 2], sure of some of them."""

    def __init__(self) -> None:
        super().__init__()
        widths = {"classes": K, "detector": 2 * K, "open": K + 1}
        self.layers = nn.ModuleDict({name: nn.Linear(12, width).double() for name, width in widths.items()})
        with torch.no_grad():
            for layer in self.layers.values():
                layer.weight.mul_(4)

    def forward(self, rows: Tensor, groups: int = 1, update: int | None = None, heads: Any = None) -> Any:
        rows = rows.flatten(1)
        return {name: self.layers[name](rows) for name in heads} if heads else self.layers["classes"](rows)

    def logits(self, name: str, images: Tensor) -> Array:
        """Of a head, in NumPy."""
        return reference.logits(self.layers[name], reference.flat(images))


def differences(logits: Array) -> Array:
    """[n, 2K] to [n, K]: "this class", which comes last, minus "not"."""
    classes = logits.shape[1] // 2
    return logits[:, classes:] - logits[:, :classes]


def sigmoid(d: Array) -> Array:
    return 1 / (1 + np.exp(-d))


def detection(d: Array, labels: Array) -> tuple[float, Array]:
    """OVANet's loss: mean of −ln p(in) of the class and −ln p(out) of the hardest other one; and its slope."""
    p, rows = sigmoid(d), np.arange(len(d))
    others = np.where(np.eye(d.shape[1], dtype=bool)[labels], -np.inf, d)
    hardest = others.argmax(1)
    value = -np.log(p[rows, labels]) - np.log(1 - p[rows, hardest])
    slope = np.zeros_like(d)
    slope[rows, labels] = p[rows, labels] - 1
    slope[rows, hardest] = p[rows, hardest]
    return float(value.mean()), slope / len(d)


def of_pairs(slope: Array) -> Array:
    """A slope in the differences as one in the logits."""
    return np.concatenate([-slope, slope], 1)


def matches(losses: Losses, network: Heads, parts: Mapping[str, list[tuple[Tensor, Array]]], **values: float) -> None:
    """Assert the losses named in `values` ("total" among them) and the gradient of the total in each head."""
    for name, value in values.items():
        actual = losses.total if name == "total" else losses.metrics[name]
        assert_allclose(actual.item(), value, rtol=1e-9, atol=1e-12, err_msg=name)
    losses.total.backward()
    for name, slopes in parts.items():
        weight = sum(slope.T @ reference.flat(images) for images, slope in slopes)
        gradient = network.layers[name].weight.grad
        assert gradient is not None
        assert_allclose(gradient, weight, rtol=1e-9, atol=1e-9 * np.abs(weight).max(), err_msg=name)
