"""Weak augmentation of a batch: a random flip and a random shift of each sample, with reflected borders.

The draws are made on the host (`draw_weak`); on the device a single gather moves the pixels (`weak`). The border is
mirrored without repeating the edge: one pixel outside the image is the pixel one inside.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def draw_weak(rng: np.random.Generator, n: int, flip: bool, shift: int) -> np.ndarray:
    """Draws of one view of n samples.

    Args:
        flip: mirror left-right with probability ½.
        shift: largest shift in pixels, either way, in both directions; less than the side.

    Returns:
        int64 [n, 3]: flipped (0 or 1), and the first row and column of the crop, each from −shift to shift.
    """
    draws = np.empty((n, 3), np.int64)
    draws[:, 0] = rng.integers(0, 2, n) * flip
    draws[:, 1:] = rng.integers(-shift, shift + 1, (n, 2))
    return draws


def weak(images: Tensor, draws: Tensor) -> Tensor:
    """Augment and scale: `scale(move(images, draws))`, float32 [n, 3, H, W] in [−1, 1]."""
    return scale(move(images, draws))


def move(images: Tensor, draws: Tensor) -> Tensor:
    """Flip and shift.

    Args:
        images: uint8 [n, H, W, C].
        draws: int64 [n, 3], as `draw_weak` returns them, on the same device.

    Returns:
        uint8 [n, H, W, C].
    """
    n, height, width, channels = images.shape
    flipped, down, right = draws.unsqueeze(-1).unbind(1)  # [n, 1] each
    row = _reflect(torch.arange(height, device=images.device) + down, height)
    column = _reflect(torch.arange(width, device=images.device) + right, width)
    column = torch.where(flipped > 0, width - 1 - column, column)  # the crop is taken from the flipped image
    first = torch.arange(n, device=images.device).unsqueeze(1) * height
    pixel = (first + row).unsqueeze(2) * width + column.unsqueeze(1)
    return images.reshape(-1, channels).index_select(0, pixel.flatten()).view(n, height, width, channels)


def scale(images: Tensor) -> Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] in [−1, 1], in channels_last memory; no augmentation."""
    return images.to(torch.float32).mul_(2 / 255).sub_(1).permute(0, 3, 1, 2)


def _reflect(position: Tensor, side: int) -> Tensor:
    """Positions in −(side−1) … 2(side−1), mirrored into 0 … side−1."""
    last = side - 1
    return last - (last - position.abs()).abs()
