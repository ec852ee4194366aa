"""What a network computes."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from networks.network import Network


def multiplications(model: Network, size: tuple[int, int]) -> int:
    """Multiplications of convolutions and linear layers for one image; of the heads, only the classifier.

    Args:
        model: on any device, "meta" too, where nothing is computed.
        size: (height, width) of the image.
    """
    layers = _outputs(model, size)
    return sum(count // len(weight) * weight.numel() for weight, count in layers) + model.head.weight.numel()


def outputs(model: Network, size: tuple[int, int]) -> int:
    """Numbers that convolutions and linear layers give for one image; a training step holds them all."""
    return sum(count for _, count in _outputs(model, size))


@torch.no_grad()
def _outputs(model: Network, size: tuple[int, int]) -> list[tuple[Tensor, int]]:
    """Weight and number of outputs of each convolution and linear layer below the heads."""
    found: list[tuple[Tensor, int]] = []

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        found.append((module.weight, output.numel()))

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                stack.callback(module.register_forward_hook(note).remove)
        parameter = next(model.parameters())
        model.embed(torch.zeros((1, 3, *size), device=parameter.device, dtype=parameter.dtype), running=True)
    return found
