"""RandAugment as FixMatch's and UDA's code have it: two operations, each with probability ½ and a magnitude of 1–9.

After Cubuk et al. 2020, with AutoAugment's magnitudes. Operations are drawn with replacement, magnitude and sign for
each anew. Then CutOut: a square of half the side. What geometry exposes and what is cut out become 0 in [−1, 1].

FixMatch applies it to weakly augmented images. UDA flips and shifts afterwards: `augment.move` does that to the result,
as [n, H, W, 3].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from torch import Tensor

from trainer.policies import layer
from trainer.policies import operations as ops

Variant = Literal["fixmatch", "uda"]
DEPTH, MAGNITUDES = 2, 9
KINDS: dict[Variant, tuple[int, ...]] = {
    "fixmatch": ops.codes(
        "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "contrast", "brightness", "sharpness",
        "shear_x", "translate_x", "translate_y", "posterize", "shear_y",
    ),
    "uda": ops.codes(
        "invert", "cutout", "sharpness", "autocontrast", "posterize", "shear_x", "translate_x", "translate_y",
        "shear_y", "rotate", "equalize", "contrast", "color", "solarize", "brightness",
    ),
}  # fmt: skip
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
    """The amount, float64, of magnitude 1–9 of each operation; the sign, ±1, counts for geometry alone."""
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
        draws: of `draw`, on the same device.

    Returns:
        float32 [n, 3, H, W] in [−1, 1], in channels_last memory.
    """
    return layer.in_parts(lambda images, draws: _view(images, draws, variant), images, draws)


def _view(images: Tensor, draws: Mapping[str, Tensor], variant: Variant) -> Tensor:
    size = (images.shape[1], images.shape[2])
    op, amount, centre = draws["op"], draws["amount"], draws["centre"]
    pixels = layer.planes(images)
    hidden = layer.box(centre[:, DEPTH], 0, size)  # none yet
    for i in range(DEPTH):
        moved, hidden_now = layer.apply(pixels, hidden, op[:, i], amount[:, i], KINDS[variant])
        assert hidden_now is not None
        pixels, hidden = moved, hidden_now
        if ops.CUTOUT in KINDS[variant]:
            cut = layer.box(centre[:, i], amount[:, i] * (op[:, i] == ops.CUTOUT), size)
            pixels, hidden = layer.paint(pixels, cut, CUTOUT_COLOUR), hidden | cut
    hidden = hidden | layer.box(centre[:, DEPTH], min(size) // 4, size)
    return layer.scaled(pixels, hidden)
