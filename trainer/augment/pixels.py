"""Pixels as whole numbers: conversion from bytes and to the network's input, processing in parts, painting squares.

Pixels are float32 [n, 3, H, W], whole numbers from 0 to 255: exact, and several times as fast as bytes on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

CACHED = 1 << 17  # pixels


def in_parts(
    view: Callable[[Tensor, Mapping[str, Tensor]], Tensor], images: Tensor, draws: Mapping[str, Tensor]
) -> Tensor:
    """Apply `view` to images and their draws; on a CPU, to as many images at a time as its cache holds."""
    n, height, width, _ = images.shape
    rows = max(CACHED // (height * width), 1)
    if n <= rows or images.device.type != "cpu":
        return view(images, draws)
    parts = [slice(first, first + rows) for first in range(0, n, rows)]
    return torch.cat([view(images[part], {name: values[part] for name, values in draws.items()}) for part in parts])


def planes(images: Tensor) -> Tensor:
    """uint8 [n, H, W, 3] to pixels."""
    return images.permute(0, 3, 1, 2).contiguous().to(torch.float32)


def scaled(pixels: Tensor, shown: Tensor | None = None) -> Tensor:
    """Pixels to float32 [n, 3, H, W] in [−1, 1], in channels_last memory; 0 where not `shown`, bool [n, 1, H, W]."""
    values = (pixels * (2 / 255)).sub_(1)
    if shown is not None:
        values.mul_(shown.to(torch.float32))
    return values.contiguous(memory_format=torch.channels_last)


def box(centre: Tensor, half: Tensor | int, size: tuple[int, int]) -> Tensor:
    """Bool [n, 1, H, W]: True from centre − half to centre + half, exclusive, clipped at the border.

    Args:
        centre: int64 [n, 2], row and column.
        half: half the side in whole pixels, [n] or one number for all.
    """
    within = []
    for dim, side in enumerate(size):
        distance = torch.arange(side, device=centre.device) - centre[:, dim : dim + 1]
        reach = half.view(-1, 1) if isinstance(half, Tensor) else half
        within.append((distance >= -reach) & (distance < reach))
    return (within[0].unsqueeze(2) & within[1].unsqueeze(1)).unsqueeze(1)


def paint(pixels: Tensor, where: Tensor, colour: Sequence[int]) -> Tensor:
    """Paint pixels in one colour, 0–255 for each channel, where `where` [n, 1, H, W] is True."""
    fill = torch.stack([torch.full((), float(level), device=pixels.device) for level in colour])
    return torch.lerp(pixels, fill.view(-1, 1, 1), where.to(torch.float32))
