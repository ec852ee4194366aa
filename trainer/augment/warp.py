"""Rotate, shear and translate: each image by its own affine map, nearest neighbour, in one gather.

The arithmetic is Pillow's (pixel centres, 16.16 fixed point), so that the pixels are Pillow's too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.augment.operations import ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y

ONE = 1 << 16  # 1 in fixed point


def sources(op: Tensor, amount: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from; of itself where the operation is none of this module's.

    Args:
        op: int64 [n].
        amount: float64 [n].
        size: height and width, less than 2^14.

    Returns:
        int32 [n, H·W], the pixel of the same image, any where there is none; bool [n, H, W], whether there is one.
    """
    height, width = size
    xx, xy, x0, yx, yy, y0 = (term.view(-1, 1, 1) for term in _coefficients(op, amount, size))
    row = torch.arange(height, dtype=torch.int32, device=op.device).view(-1, 1)
    column = torch.arange(width, dtype=torch.int32, device=op.device)
    x, y = (xx * column + xy * row + x0) >> 16, (yx * column + yy * row + y0) >> 16
    inside_x, inside_y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    return (inside_y * width + inside_x).flatten(1), (x == inside_x) & (y == inside_y)


def move(planes: Tensor, source: Tensor, inside: Tensor) -> Tensor:
    """Gather [n, C, H, W], numbers or bools, by the results of `sources`; 0 where there is no source."""
    n, channels, height, width = planes.shape
    area = height * width
    assert planes.numel() < 2**31, "pixels are numbered in 32 bits"
    first = torch.arange(0, n * channels * area, area, dtype=torch.int32, device=planes.device).view(n, channels, 1)
    moved = planes.flatten().index_select(0, (first + source.unsqueeze(1)).flatten()).view_as(planes)
    return moved.mul_(inside.unsqueeze(1).to(planes.dtype))


def _coefficients(op: Tensor, amount: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """int32 [n] each, fixed point: x' = xx·x + xy·y + x0 and y' = yx·x + yy·y + y0 of the pixel at column x, row y."""
    height, width = size
    zero = torch.zeros_like(amount)

    def chosen(code: int) -> Tensor:
        return torch.where(op == code, amount, zero)

    angle = chosen(ROTATE) * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    shear_x, shear_y = chosen(SHEAR_X), chosen(SHEAR_Y)
    # rotation is about the centre, shear about the corner; a pixel is looked up at its centre
    x0 = (width - (width - 1) * cos + (height - 1) * sin + shear_x) / 2
    y0 = (height - (width - 1) * sin - (height - 1) * cos + shear_y) / 2
    # whole pixels, so that no rounding of the other terms can carry a translation over
    right, down = ((chosen(code) + 0.5).floor() for code in (TRANSLATE_X, TRANSLATE_Y))
    return _fixed(cos), _fixed(shear_x - sin), _fixed(x0 + right), _fixed(sin + shear_y), _fixed(cos), _fixed(y0 + down)


def _fixed(value: Tensor) -> Tensor:
    """float64 to int32 in fixed point, rounded half up."""
    return (value * ONE + 0.5).floor().to(torch.int32)
