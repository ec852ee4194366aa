"""RandAugment (Cubuk et al. 2020) as in FixMatch's and UDA's code: two operations, each with probability ½.

Operations are drawn with replacement, each with a sign and a magnitude from 1 to 9 on AutoAugment's scale. CutOut
follows, a square of half the side. Exposed borders and CutOut become 0 in [−1, 1].

FixMatch applies it to weakly augmented images. UDA flips and shifts its result instead, with `flip_shift.move`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainer.augment import operations as ops
from trainer.augment import warp
from trainer.augment.pixels import box, in_parts, paint, planes, scaled
from trainer.augment.tone import adjust

Variant = Literal["fixmatch", "uda"]
DEPTH, MAGNITUDES = 2, 9
KINDS: dict[Variant, tuple[int, ...]] = {
    "fixmatch": ops.codes(
        "identity",
        "autocontrast",
        "equalize",
        "rotate",
        "solarize",
        "color",
        "contrast",
        "brightness",
        "sharpness",
        "shear_x",
        "translate_x",
        "translate_y",
        "posterize",
        "shear_y",
    ),
    "uda": ops.codes(
        "invert",
        "cutout",
        "sharpness",
        "autocontrast",
        "posterize",
        "shear_x",
        "translate_x",
        "translate_y",
        "shear_y",
        "rotate",
        "equalize",
        "contrast",
        "color",
        "solarize",
        "brightness",
    ),
}
CUTOUT_COLOUR = (125, 122, 113)  # what operations after UDA's cutout see: the mean of CIFAR-10


def draw(rng: np.random.Generator, n: int, size: tuple[int, int], variant: Variant) -> dict[str, np.ndarray]:
    """Draws of one strong view of n samples of the given height and width.

    Returns:
        op: int64 [n, 2], codes; the identity where an operation is not applied.
        amount: float64 [n, 2], in the operation's unit.
        centre: int64 [n, 3, 2], row and column: of the cutout in either layer, and of the last one.
    """
    kind = rng.choice(np.array(KINDS[variant]), (n, DEPTH))
    applied = rng.integers(0, 2, (n, DEPTH)) == 1
    magnitude = rng.integers(1, MAGNITUDES + 1, (n, DEPTH))
    sign = 2 * rng.integers(0, 2, (n, DEPTH)) - 1
    return {
        "op": np.where(applied, kind, ops.IDENTITY),
        "amount": amounts(kind, magnitude, sign, size),
        "centre": rng.integers(0, size, (n, DEPTH + 1, 2)),
    }


def amounts(op: np.ndarray, magnitude: np.ndarray, sign: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The amount of each operation at a magnitude from 1 to 9, float64; the sign, ±1, only affects geometry."""
    height, width = size
    amount = np.ones(op.shape)
    for code, value in (
        (ops.POSTERIZE, 4 - 4 * magnitude // 10),
        (ops.SOLARIZE, 256 - 256 * magnitude // 10),
        (ops.ROTATE, sign * 3 * magnitude),
        (ops.SHEAR_X, sign * 0.03 * magnitude),
        (ops.SHEAR_Y, sign * 0.03 * magnitude),
        (ops.TRANSLATE_X, sign * magnitude * width / 32),
        (ops.TRANSLATE_Y, sign * magnitude * height / 32),
        (ops.CUTOUT, magnitude * min(size) // 32),
    ):
        amount = np.where(op == code, value, amount)
    enhance = (op >= ops.BRIGHTNESS) & (op <= ops.SHARPNESS)
    return np.where(enhance, 0.1 + 0.18 * magnitude, amount)


def apply(images: Tensor, draws: Mapping[str, Tensor], variant: Variant) -> Tensor:
    """The strong view.

    Args:
        images: uint8 [n, H, W, 3].
        draws: as `draw` returns them, on the same device.

    Returns:
        float32 [n, 3, H, W] in [−1, 1], in channels_last memory.
    """
    return in_parts(lambda images, draws: _view(images, draws, variant), images, draws)


def _view(images: Tensor, draws: Mapping[str, Tensor], variant: Variant) -> Tensor:
    kinds, size = KINDS[variant], (images.shape[1], images.shape[2])
    pixels = planes(images)
    # what is not shown ends as 0, but later operations see it as black, or in CutOut's colour
    shown = torch.ones_like(pixels[:, :1], dtype=torch.bool)
    for i in range(DEPTH):
        op, amount, centre = draws["op"][:, i], draws["amount"][:, i], draws["centre"][:, i]
        place = warp.sources(op, amount, size)
        pixels = adjust(warp.move(pixels, *place), op, amount, kinds)
        # the papers' code makes these operations on an image without transparency, and so shows everything
        opaque = ops.between(op, ops.AUTOCONTRAST, ops.SOLARIZE).view(-1, 1, 1, 1)
        shown = warp.move(shown, *place) | opaque
        if ops.CUTOUT in kinds:
            cut = box(centre, torch.where(op == ops.CUTOUT, amount, 0), size)
            pixels, shown = paint(pixels, cut, CUTOUT_COLOUR), shown & ~cut
    shown &= ~box(draws["centre"][:, DEPTH], min(size) // 4, size)
    return scaled(pixels, shown)
