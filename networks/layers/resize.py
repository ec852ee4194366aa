"""Resizing on the device: a central crop and a resampling, as two products with small matrices.

The weights are those of Pillow and of torch's `interpolate(antialias=True)`. As products they are differentiable as
often as one likes, and every compiler and exporter has them.
"""

from __future__ import annotations

import torch
from torch import Tensor

SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # half the width of the kernel, in pixels of the coarser image


def resize(
    images: Tensor, size: int, interpolation: str = "bicubic", crop: float = 1.0, squash: bool = False
) -> Tensor:
    """Resize the central square of images to `size` × `size`.

    Args:
        images: float [n, 3, H, W].
        size: side of the result in pixels.
        interpolation: "bilinear" or "bicubic"; antialiased where it shrinks.
        crop: side of the square as a share of the shorter side, in (0, 1].
        squash: take the whole image, and let it lose its aspect, instead of a square.

    Returns:
        [n, 3, size, size] of the same type; the images themselves if that is what they are.
    """
    height, width = images.shape[-2:]
    sides = (crop * height, crop * width) if squash else (crop * min(height, width),) * 2
    if (height, width) == (size, size) == sides:
        return images
    with torch.autocast(images.device.type, enabled=False):  # grey levels need more digits than bf16 has
        rows = resampling(height, sides[0], size, interpolation, images.device).to(images.dtype)
        columns = resampling(width, sides[1], size, interpolation, images.device).to(images.dtype)
        return rows @ images @ columns.mT


def resampling(length: int, used: float, size: int, interpolation: str, device: torch.device | None = None) -> Tensor:
    """The matrix [size, length] that resamples the middle `used` of `length` pixels to `size`; rows sum to 1."""
    scale = used / size
    reach = max(scale, 1.0)
    centers = (length - used) / 2 + (torch.arange(size, device=device) + 0.5) * scale
    pixels = torch.arange(length, device=device) + 0.5
    distance = ((pixels[None, :] - centers[:, None]) / reach).abs()
    weights = (1 - distance).clamp(min=0) if interpolation == "bilinear" else _cubic(distance)
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    """Keys' kernel for |x|; a = −½ is Pillow's."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
