"""How a method declares the heads that it trains besides the classifier. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Head:
    """Linear layers with ReLU between them, on the pooled features or on another head's output.

    Attributes:
        name: how the method asks for the output, and the name of its weights in checkpoints.
        widths: maps the number of classes K and of features D to the outputs of each layer: `lambda k, d: [2 * k]`.
        bias: whether the layers have biases.
        init: "xavier" draws weights from Xavier's normal distribution and sets biases to 0; "torch" keeps
            `torch.nn.Linear`'s own initialisation.
        on: name of an earlier head whose output this one reads; None: the pooled features.
    """

    name: str
    widths: Callable[[int, int], Sequence[int]]
    bias: bool = True
    init: Literal["xavier", "torch"] = "xavier"
    on: str | None = None
