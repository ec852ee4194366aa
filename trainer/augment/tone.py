"""Everything that leaves pixels in their place: look-up tables, enhancers and filters.

All are one blend, first + α·(second − first), truncated to grey levels as Pillow does. One of the two is the image, the
other what its row's operation makes of it: a table of its own channels' levels (autocontrast, equalize, invert,
posterize, solarize; black for brightness, mean grey for contrast), its grey version (color) or its filtered version
(sharpness, smooth, blur). Enhancers start from the other, so that a factor of 1 gives the image.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from trainer.augment import operations as ops

LEVELS = 256


def adjust(pixels: Tensor, op: Tensor, amount: Tensor, kinds: Collection[int]) -> Tensor:
    """Apply the operations of this module; other rows come back as they are.

    Args:
        pixels: float32 [n, 3, H, W], whole numbers 0–255.
        op: int64 [n].
        amount: float64 [n].
        kinds: the codes that can occur; what no row can need is not computed.
    """
    grey = _grey(pixels)
    other = _look_up(pixels, _tables(pixels, grey, op, amount))
    other.lerp_(grey, _weight(op == ops.COLOR))
    # a filter leaves the border that it would reach across as it is
    near = _box(pixels, 3)
    if ops.BLUR in kinds:
        ring = _box(pixels, 5).sub_(near[:, :, 1:-1, 1:-1])
        other[:, :, 2:-2, 2:-2].lerp_(_rounded(ring, 16), _weight(op == ops.BLUR))
    smooth = _rounded(near.add_(pixels[:, :, 1:-1, 1:-1], alpha=4), 13)
    other[:, :, 1:-1, 1:-1].lerp_(smooth, _weight((op == ops.SHARPNESS) | (op == ops.SMOOTH)))
    alpha = torch.where(ops.between(op, ops.POSTERIZE, ops.SOLARIZE), 1.0, amount).to(torch.float32)
    enhance = ops.between(op, ops.BRIGHTNESS, ops.SHARPNESS)
    first = torch.lerp(pixels, other, _weight(enhance))
    change = (other - pixels).mul_(torch.where(enhance, -alpha, alpha).view(-1, 1, 1, 1))
    return change.add_(first).clamp_(0, LEVELS - 1).floor_()


def _weight(chosen: Tensor) -> Tensor:
    """bool [n] to float32 [n, 1, 1, 1]; with 0 and 1 lerp is exact, and faster than where."""
    return chosen.to(torch.float32).view(-1, 1, 1, 1)


def _rounded(total: Tensor, weights: int) -> Tensor:
    """A weighted sum to grey levels, in place."""
    return total.div_(weights).add_(0.5).floor_()


def _grey(pixels: Tensor) -> Tensor:
    """ITU-R 601 luma, [n, 3, H, W] to [n, 1, H, W]."""
    red, green, blue = pixels.split(1, dim=1)
    return _rounded((19595 * red).add_(green, alpha=38470).add_(blue, alpha=7471), 1 << 16)


def _box(pixels: Tensor, side: int) -> Tensor:
    """Sum over the square around each pixel that has a whole one: [n, 3, H − side + 1, W − side + 1]."""
    height, width = (max(length - side + 1, 0) for length in pixels.shape[2:])
    rows = pixels[:, :, :height].clone()
    for i in range(1, side):
        rows.add_(pixels[:, :, i : i + height])
    total = rows[..., :width].clone()
    for i in range(1, side):
        total.add_(rows[..., i : i + width])
    return total


def _tables(pixels: Tensor, grey: Tensor, op: Tensor, amount: Tensor) -> Tensor:
    """float32 [n, 3, 256]: what each level of each channel becomes, whole numbers 0–255."""
    op, amount = op.view(-1, 1, 1), amount.view(-1, 1, 1)
    level = torch.arange(LEVELS, dtype=torch.int32, device=pixels.device).view(1, 1, -1)
    dropped = torch.where(op == ops.POSTERIZE, 8 - amount, 0).to(torch.int32)
    table = (level >> dropped) << dropped
    inverted = (op == ops.INVERT) | ((op == ops.SOLARIZE) & (level >= amount))
    table = torch.where(inverted, LEVELS - 1 - table, table).to(torch.float32)
    table = torch.where(op == ops.BRIGHTNESS, 0.0, table)
    mean = (grey.mean((1, 2, 3), dtype=torch.float64) + 0.5).floor().to(torch.float32).view(-1, 1, 1)
    table = torch.where(op == ops.CONTRAST, mean, table)
    low, high = pixels.flatten(2).amin(2, keepdim=True), pixels.flatten(2).amax(2, keepdim=True)
    table = torch.where((op == ops.AUTOCONTRAST) & (high > low), _stretched(low, high), table)
    equal, changes = _equalized(pixels, high)
    return torch.where((op == ops.EQUALIZE) & changes, equal, table)


def _stretched(low: Tensor, high: Tensor) -> Tensor:
    """Tables that carry the darkest level [n, 3, 1] to 0 and the brightest to 255."""
    level = torch.arange(LEVELS, dtype=torch.float64, device=low.device)
    span = (high - low).clamp(min=1).to(torch.float64)
    scale = torch.full_like(span, LEVELS - 1) / span  # a number divided by a tensor is a product with its inverse
    return (level * scale - low * scale).clamp_(0, LEVELS - 1).floor_().to(torch.float32)


def _equalized(pixels: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Tables that flatten each channel's histogram; bool [n, 3, 1], whether it has enough levels for that."""
    n, channels, height, width = pixels.shape
    count = torch.zeros(n, channels, LEVELS, device=pixels.device)
    levels = pixels.flatten(2)
    count.scatter_add_(2, levels.to(torch.int64), torch.ones_like(levels))
    others = height * width - count.gather(2, high.to(torch.int64))  # pixels below the brightest level
    step = ((others + 0.5) / (LEVELS - 1)).floor_()  # ½ away from a whole quotient, no rounding can cross it
    below = count.cumsum(2) - count
    table = (((step / 2).floor_() + below + 0.5) / step.clamp(min=1)).floor_().clamp_(max=LEVELS - 1)
    return table, step > 0


def _entries(pixels: Tensor) -> Tensor:
    """Which entry of the tables of all images and channels each value is: int32 [n·3·H·W]."""
    n, channels = pixels.shape[:2]
    first = torch.arange(0, n * channels * LEVELS, LEVELS, dtype=torch.int32, device=pixels.device)
    return pixels.to(torch.int32).add_(first.view(n, channels, 1, 1)).flatten()


def _look_up(pixels: Tensor, tables: Tensor) -> Tensor:
    """[n, 3, H, W] through tables [n, 3, 256]."""
    return tables.flatten().index_select(0, _entries(pixels)).view_as(pixels)
