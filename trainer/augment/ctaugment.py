"""CTAugment (Berthelot et al. 2020, ReMixMatch §3.2.2) as in FixMatch's code: augmentation with learned magnitudes.

Every magnitude is a level in [0, 1], divided into bins. The weight of a bin follows how close the averaged network's
predictions for probe images with this magnitude are to their labels; training draws from the bins whose weight is not
far below that of the best one. Exposed borders are black, and CutOut is grey (127).

    draw_probe → apply_probe → learn (teacher → closeness → update)      the weights, once a step
    draw → apply                                                         the strong views, from the weights
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from trainer.augment import operations as ops
from trainer.augment import warp
from trainer.augment.pixels import box, in_parts, paint, planes, scaled
from trainer.augment.rescale import FILTERS, LARGEST, matrices, rescale
from trainer.augment.tone import adjust
from trainer.contract import Batch, Network
from trainer.functional.ops import one_hot, softmax

DEPTH = 2
BINS, POSTERIZE_BINS = 17, 8
DECAY, THRESHOLD = 0.99, 0.80
METHOD = len(ops.NAMES)  # the row of weights after the operations': rescale's filter
KINDS = tuple(range(len(ops.NAMES)))
GREY = (127, 127, 127)


def init_state() -> dict[str, Tensor]:
    """The weights before the first step.

    Returns:
        weights: float32 [20, 17], a row for each operation and one for rescale's filter; 1 for bins that exist, 0 for
            those that do not (posterize has 8, the filter 6, the identity none).
    """
    row = torch.arange(METHOD + 1)
    exists = (torch.arange(BINS) < _bins(row).unsqueeze(1)) & (row != ops.IDENTITY).unsqueeze(1)
    return {"weights": exists.to(torch.float32)}


def draw(rng: np.random.Generator, n: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Draws of one strong view of n samples of the given height and width.

    Returns:
        op: int64 [n, 2], codes, uniform with replacement.
        uniform: float32 [n, 2, 4] in [0, 1): which bin and where in it, for the level and for rescale's filter.
        centre: int64 [n, 3, 2], row and column: of the cutout in either layer, and of the last one.
    """
    return {
        "op": rng.integers(0, len(ops.NAMES), (n, DEPTH)),
        "uniform": rng.random((n, DEPTH, 4), np.float32),
        "centre": rng.integers(0, size, (n, DEPTH + 1, 2)),
    }


def draw_probe(rng: np.random.Generator, n: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Draws of a probe of n samples; they do not depend on the weights.

    Returns:
        op: int64 [n, 2].
        level: float32 [n, 2, 2] in [0, 1): of the operation, and of rescale's filter.
        centre: int64 [n, 2, 2].
    """
    return {
        "op": rng.integers(0, len(ops.NAMES), (n, DEPTH)),
        "level": rng.random((n, DEPTH, 2), np.float32),
        "centre": rng.integers(0, size, (n, DEPTH, 2)),
    }


def apply(
    images: Tensor, draws: Mapping[str, Tensor], state: Mapping[str, Tensor], cutout: bool, legacy: bool = False
) -> Tensor:
    """The strong view.

    Args:
        images: uint8 [n, H, W, 3].
        draws: of `draw`, on the same device.
        state: of `init_state`, on the same device.
        cutout: end with a square of half the side (FixMatch; ReMixMatch has none).
        legacy: translate by up to 0.3 pixels, which changes nothing, as the authors' code does; else 0.3 of the side.

    Returns:
        float32 [n, 3, H, W] in [−1, 1], in channels_last memory.
    """
    return _view(images, {**draws, "level": levels(draws, state)}, cutout, legacy)


def apply_probe(images: Tensor, draws: Mapping[str, Tensor], legacy: bool = False) -> Tensor:
    """The probe: as `apply`, with draws of `draw_probe` and without the last CutOut."""
    return _view(images, draws, False, legacy)


def levels(draws: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
    """Levels of a strong view, float32 [n, 2, 2]: its uniform numbers mapped to bins according to the weights."""
    rows = _rows(draws["op"])
    which, where = draws["uniform"].unflatten(2, (2, 2)).unbind(3)
    total = probabilities(state).cumsum(1)[rows]  # [n, 2, 2, 17]
    end = total[..., -1:]
    bin_ = ((total <= which.unsqueeze(3) * end) & (total < end)).sum(3)  # never one of probability 0
    return (bin_ + where) / _bins(rows)


def probabilities(state: Mapping[str, Tensor]) -> Tensor:
    """float32 [20, 17], rows sum to 1: proportional to the weights, but 0 below 0.8 of the row's largest weight."""
    weights = state["weights"]
    row = torch.arange(METHOD + 1, device=weights.device).unsqueeze(1)
    exists = torch.arange(BINS, device=weights.device) < _bins(row)
    rates = (weights + (1 - DECAY)) * exists  # never all zero
    rates = rates / rates.amax(1, keepdim=True)
    rates = torch.where(rates < THRESHOLD, 0.0, rates)
    return rates / rates.sum(1, keepdim=True)


def learn(teacher: Network | None, batch: Batch, state: Mapping[str, Tensor]) -> None:
    """Update the weights in `state` by the averaged network's predictions for the probe, if the batch has one."""
    if batch.probe is None:
        return
    assert teacher is not None, "who declares a probe declares a teacher"
    with torch.no_grad():
        probs = softmax(teacher(batch.probe, running=True))
    update(state, batch.draws, closeness(probs, batch.y))


def closeness(probs: Tensor, labels: Tensor) -> Tensor:
    """ω = 1 − ½‖p − onehot(y)‖₁ (ReMixMatch §3.2.2): 1 for a perfect prediction, 0 for a disjoint one.

    Args:
        probs: [n, K], rows sum to 1.
        labels: int64 [n].
    """
    return 1 - (probs - one_hot(labels, probs.shape[1])).abs().sum(1) / 2


@torch.no_grad()
def update(state: Mapping[str, Tensor], draws: Mapping[str, Tensor], omega: Tensor) -> None:
    """Update the weights in place from a probe: m ← 0.99 m + 0.01 ω for the bin of every level used, image by image.

    A bin that is hit K times becomes 0.99^K m + 0.01 Σ 0.99^(later hits) ω; all bins are computed at once, in float64.

    Args:
        state: as `init_state` returns it.
        draws: as `draw_probe` returns them.
        omega: float32 [n], the `closeness` of each image's prediction.
    """
    op, level = draws["op"], draws["level"].to(torch.float64)
    rows = _rows(op)
    bins = (level * _bins(rows) * 0.999).to(torch.int64)
    used = torch.stack([op != ops.IDENTITY, op == ops.RESCALE], 2)
    weights = state["weights"]
    cell = torch.arange(weights.numel(), device=weights.device)
    hit = ((rows * BINS + bins).view(-1, 1) == cell) & used.view(-1, 1)  # in order: image, layer, parameter
    hits = hit.to(torch.float64)
    to_come = hits.sum(0) - hits.cumsum(0)
    gain = omega.to(torch.float64).repeat_interleave(DEPTH * 2).unsqueeze(1) * hits * DECAY**to_come
    kept = DECAY ** hits.sum(0) * weights.flatten()
    weights.copy_((kept + (1 - DECAY) * gain.sum(0)).view_as(weights))


def _rows(op: Tensor) -> Tensor:
    """The rows of the weights to which an operation's two levels belong: int64 [n, 2, 2]."""
    return torch.stack([op, torch.full_like(op, METHOD)], 2)


def _bins(row: Tensor) -> Tensor:
    """Number of bins of a row of the weights."""
    few = torch.where(row == ops.POSTERIZE, POSTERIZE_BINS, BINS)
    return torch.where(row == METHOD, len(FILTERS), few)


def amounts(op: Tensor, level: Tensor, size: tuple[int, int], legacy: bool = False) -> Tensor:
    """The amount of each operation at a level in [0, 1]: float64 [n, 2]."""
    height, width = (1, 1) if legacy else size
    signed = 2 * level - 1
    amount = torch.where(ops.between(op, ops.BRIGHTNESS, ops.SHARPNESS), 0.1 + 1.9 * level, level)
    for code, value in (
        (ops.POSTERIZE, 1 + (7.999 * level).floor()),
        (ops.SOLARIZE, (255.999 * level).floor()),
        (ops.ROTATE, (45 * signed).round()),
        (ops.SHEAR_X, 0.3 * signed),
        (ops.SHEAR_Y, 0.3 * signed),
        (ops.TRANSLATE_X, 0.3 * width * signed),
        (ops.TRANSLATE_Y, 0.3 * height * signed),
        (ops.RESCALE, LARGEST * level),
        (ops.CUTOUT, ((1 + (level * min(size) * 0.499).floor()) / 2).floor()),
    ):
        amount = torch.where(op == code, value, amount)
    return amount


def _view(images: Tensor, draws: Mapping[str, Tensor], cutout: bool, legacy: bool) -> Tensor:
    """Apply both layers, with given levels: uint8 [n, H, W, 3] to float32 [n, 3, H, W] in [−1, 1]."""
    size = (images.shape[1], images.shape[2])
    down = matrices(size[0], images.device)
    across = down if size[0] == size[1] else matrices(size[1], images.device)

    def part(images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        op, level, centre = draws["op"], draws["level"].to(torch.float64), draws["centre"]
        amount = amounts(op, level[..., 0], size, legacy)
        margin, half = (torch.where(op == code, amount, 0) for code in (ops.RESCALE, ops.CUTOUT))
        method = (level[..., 1] * (len(FILTERS) - 0.01)).to(torch.int64)
        pixels = planes(images)
        for i in range(DEPTH):
            place = warp.sources(op[:, i], amount[:, i], size)
            pixels = adjust(warp.move(pixels, *place), op[:, i], amount[:, i], KINDS)
            pixels = rescale(pixels, margin[:, i], method[:, i], down, across)
            pixels = paint(pixels, box(centre[:, i], half[:, i], size), GREY)
        if cutout:
            last = (1 + int(min(size) * 0.499)) // 2
            pixels = paint(pixels, box(centre[:, DEPTH], last, size), GREY)
        return scaled(pixels)

    return in_parts(part, images, draws)
