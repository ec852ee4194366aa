"""One operation on every image of a batch, each row its own, and the steps around it.

Pixels are float32 [n, 3, H, W], whole numbers 0–255. RandAugment also carries bool [n, 1, H, W], which pixels are
hidden: exposed by geometry or cut out. They are black (or the cutout's colour) to the operations that follow, and 0,
mid-grey, in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from trainer.policies import operations as ops
from trainer.policies import warp
from trainer.policies.tone import adjust

CACHED = 1 << 17  # pixels


def in_parts(
    view: Callable[[Tensor, Mapping[str, Tensor]], Tensor], images: Tensor, draws: Mapping[str, Tensor]
) -> Tensor:
    """`view` of images and their draws: on a CPU a few rows at a time, whose pixels stay in its cache."""
    n, height, width, _ = images.shape
    rows = max(CACHED // (height * width), 1)
    if n <= rows or images.device.type != "cpu":
        return view(images, draws)
    parts = [slice(first, first + rows) for first in range(0, n, rows)]
    return torch.cat([view(images[part], {name: values[part] for name, values in draws.items()}) for part in parts])


def planes(images: Tensor) -> Tensor:
    """uint8 [n, H, W, 3] to pixels."""
    return images.permute(0, 3, 1, 2).contiguous().to(torch.float32)


def scaled(pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Pixels to float32 [n, 3, H, W] in [−1, 1], hidden ones 0, in channels_last memory."""
    values = (pixels * (2 / 255)).sub_(1)
    if hidden is not None:
        values.mul_((~hidden).to(torch.float32))
    return values.contiguous(memory_format=torch.channels_last)


def apply(
    pixels: Tensor, hidden: Tensor | None, op: Tensor, amount: Tensor, kinds: Collection[int]
) -> tuple[Tensor, Tensor | None]:
    """Every operation but rescale and cutout; rows with those come back as they are.

    Args:
        pixels, hidden: see the module; hidden may be None.
        op: int64 [n], codes.
        amount: float64 [n], in the operation's unit.
        kinds: the codes that can occur.
    """
    source, inside = warp.sources(op, amount, (pixels.shape[2], pixels.shape[3]))
    inside = inside.unsqueeze(1)
    pixels = warp.move(pixels, source).mul_(inside.to(torch.float32))
    if hidden is not None:
        # the papers' code makes these on an image without transparency, and with that shows what was hidden
        shown = ops.between(op, ops.AUTOCONTRAST, ops.SOLARIZE).view(-1, 1, 1, 1)
        hidden = (warp.move(hidden, source) | ~inside) & ~shown
    return adjust(pixels, op, amount, kinds), hidden


def box(centre: Tensor, half: Tensor | int, size: tuple[int, int]) -> Tensor:
    """bool [n, 1, H, W]: from centre − half up to, and without, centre + half, clipped at the border.

    Args:
        centre: int64 [n, 2], row and column.
        half: half the side, whole pixels, [n] or one for all.
    """
    within = []
    for dim, side in enumerate(size):
        distance = torch.arange(side, device=centre.device) - centre[:, dim : dim + 1]
        reach = half.view(-1, 1) if isinstance(half, Tensor) else half
        within.append((distance >= -reach) & (distance < reach))
    return (within[0].unsqueeze(2) & within[1].unsqueeze(1)).unsqueeze(1)


def paint(pixels: Tensor, where: Tensor, colour: Sequence[int]) -> Tensor:
    """The pixels with one colour, 0–255 for each channel, in a box."""
    fill = torch.stack([torch.full((), float(level), device=pixels.device) for level in colour])
    return torch.lerp(pixels, fill.view(-1, 1, 1), where.to(torch.float32))
