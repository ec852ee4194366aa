"""What a network computes."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from networks.network import Network


@torch.no_grad()
def multiplications(model: Network, size: tuple[int, int]) -> int:
    """Multiplications of convolutions and linear layers for one image; of the heads, only the classifier.

    Args:
        model: on any device, "meta" too, where nothing is computed.
        size: of the image.
    """
    found = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal found
        assert isinstance(module, nn.Conv2d | nn.Linear)
        outputs = module.weight.shape[0]
        found += output.numel() // outputs * module.weight.numel()

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                stack.callback(module.register_forward_hook(count).remove)
        parameter = next(model.parameters())
        model.embed(torch.zeros((1, 3, *size), device=parameter.device, dtype=parameter.dtype), running=True)
    return found + model.head.weight.numel()
