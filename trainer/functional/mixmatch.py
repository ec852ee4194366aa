"""The core of MixMatch (Berthelot et al. 2019, algorithm 1), shared by the methods that extend it.

guess    one sharpened label for all views of a sample
mix      every labelled and unlabelled row with a random other one
predict  the mixed rows, interleaved so that BatchNorm sees a mixture in every batch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.functional import ops


@dataclass
class Mixed:
    """Predictions for mixed rows, and their targets.

    Attributes:
        z_x: [B, K] logits of the mixed labelled rows.
        y_x: [B, K] their targets.
        z_u: [V·U, K] logits of the mixed unlabelled rows, all rows of the first view first.
        y_u: [V·U, K] their targets.
        q: [U, K] the guessed labels before mixing.
        z_first: logits of the batches that were passed as `first`, one after the other.
    """

    z_x: Tensor
    y_x: Tensor
    z_u: Tensor
    y_u: Tensor
    q: Tensor
    z_first: Tensor


def draw(rng: np.random.Generator, alpha: float, rows: int) -> dict[str, np.ndarray]:
    """What mixing `rows` rows draws: `lam` float32 [rows] = max(λ, 1 − λ) and `partner` int64 [rows], a permutation."""
    return {"lam": ops.mixing_weights(rng, alpha, rows), "partner": rng.permutation(rows)}


@torch.no_grad()
def guess(network: Callable[..., Tensor], views: Sequence[Tensor], temperature: float) -> Tensor:
    """Average the predictions for all views of each sample and sharpen them (lines 7–8): [U, K] without gradient.

    Each view is normalised by its own statistics, and none updates the running ones.
    """
    return ops.guess(network(torch.cat(list(views)), groups=len(views)).chunk(len(views)), temperature)


def mix_and_predict(
    network: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    views: Sequence[Tensor],
    q: Tensor,
    draws: Mapping[str, Tensor],
    first: Sequence[Tensor] = (),
    update: int = 0,
) -> Mixed:
    """Mix labelled and unlabelled rows with each other and predict them (lines 10–14).

    Args:
        network: the network that is trained.
        x: [B, 3, H, W] labelled images.
        y: int64 [B] their labels.
        views: [B, 3, H, W] each, views of as many unlabelled samples.
        q: [B, K] their guessed labels.
        draws: `lam` and `partner`, see `draw`.
        first: batches [B, 3, H, W] that go before the mixed ones in the same pass, neither mixed nor interleaved.
        update: index, among `first` and the mixed batches, of the batch that updates the running statistics.
    """
    assert all(view.shape == x.shape for view in views), "batches of one size are interleaved"
    rows, targets = len(x), torch.cat([ops.one_hot(y, q.shape[1]), *[q] * len(views)])
    mixed = ops.mixup(torch.cat([x, *views]), draws["lam"], draws["partner"])
    y_x, y_u = ops.mixup(targets, draws["lam"], draws["partner"]).split([rows, len(views) * rows])
    batches = [*first, *ops.interleave(mixed.split(rows))]
    logits = network(torch.cat(batches), groups=len(batches), update=update).split(rows)
    z_x, *z_views = ops.interleave(logits[len(first) :])
    z_first = torch.cat(logits[: len(first)]) if first else logits[0][:0]
    return Mixed(z_x, y_x, torch.cat(z_views), y_u, q, z_first)


def step(
    network: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    views: Sequence[Tensor],
    draws: Mapping[str, Tensor],
    temperature: float,
    guesser: Callable[..., Tensor] | None = None,
) -> Mixed:
    """MixMatch up to its losses: guess, mix, predict. The guesses come from `guesser`, by default from `network`."""
    q = guess(guesser or network, views, temperature)
    return mix_and_predict(network, x, y, views, q, draws)
