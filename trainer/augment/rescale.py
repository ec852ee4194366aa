"""Rescale: crop the same share from every side and enlarge the rest to the old size, with one of six filters.

Resampling is separable, so each image is multiplied by one matrix from the left and one from the right. There is one
matrix for each margin in whole pixels and each filter. The weights are Pillow's 22-bit fixed-point numbers, split into
two halves so that float32 holds every sum exactly: the result is Pillow's, in any order of summation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST = 0.25  # share of a side
HALF = 1 << 11  # a weight of 1 is HALF · HALF
FILTERS = ("lanczos", "bicubic", "bilinear", "box", "hamming", "nearest")  # in CTAugment's order


def matrices(side: int, device: torch.device) -> Tensor:
    """The share of each old pixel in each new one, in fixed point.

    Returns:
        float32 [margins · filters, 2 · side, side], first the high halves of all, then the low ones; margins are 0, 1,
        … pixels.
    """

    def counted(count: int, place: int) -> Tensor:
        return torch.arange(count, dtype=torch.float64, device=device).view(-1, *[1] * place)

    cut, new, old = counted(round(LARGEST * side) + 1, 2), counted(side, 1), counted(side, 0)
    scale = (side - 2 * cut) / side
    x = (old - cut) - (new + 0.5) * scale + 0.5  # from the new pixel's centre to the old one's, in old pixels
    size = x.abs()
    zero = torch.zeros_like(x)
    lanczos = torch.where(size < 3, torch.sinc(x) * torch.sinc(x / 3), zero)
    outer = ((size - 5) * size + 8) * size - 4
    bicubic = torch.where(size < 1, (1.5 * size - 2.5) * size**2 + 1, torch.where(size < 2, -0.5 * outer, zero))
    bilinear = (1 - size).clamp(min=0)
    box = ((x > -0.5) & (x <= 0.5)).to(x.dtype)
    hamming = torch.where(size < 1, torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x)), zero)
    position = (torch.where(new == 0, 0.5, 1.0) * scale).cumsum(1)  # Pillow adds up, and where pixels tie that decides
    nearest = (old - cut == position.floor()).to(x.dtype)
    weights = torch.stack([lanczos, bicubic, bilinear, box, hamming, nearest], 1)
    weights = weights * ((old >= cut) & (old < side - cut)).unsqueeze(1)
    weights = (weights / weights.sum(-1, keepdim=True) * HALF**2).round().flatten(0, 1)
    high = (weights / HALF).floor()
    return torch.cat([high, weights - high * HALF], 1).to(torch.float32)


def rescale(pixels: Tensor, margin: Tensor, method: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Zoom in.

    Args:
        pixels: float32 [n, 3, H, W], whole numbers 0–255.
        margin: float64 [n], 0–0.25; 0 changes nothing.
        method: int64 [n], place in `FILTERS`.
        down, across: `matrices` of H and of W.
    """
    n, channels, height, width = pixels.shape
    rows = pixels.reshape(n, channels * height, width)
    wide = _levels(torch.bmm(rows, _chosen(across, margin, method).mT).view(n, channels, height, 2, width), 3)
    return _levels((_chosen(down, margin, method).unsqueeze(1) @ wide).view(n, channels, 2, height, width), 2)


def _chosen(table: Tensor, margin: Tensor, method: Tensor) -> Tensor:
    """Each row's matrix: [n, 2 · side, side]."""
    cut = (margin * table.shape[-1]).round().to(torch.int64)  # half to even, as Python does
    return table.index_select(0, cut * len(FILTERS) + method)


def _levels(sums: Tensor, dim: int) -> Tensor:
    """High and low halves, along `dim`, to grey levels, half up."""
    high, low = sums.unbind(dim)
    return (low / HALF).floor_().add_(high).add_(HALF // 2).div_(HALF).floor_().clamp_(0, 255)
