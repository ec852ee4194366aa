"""The share γ of unlabelled rows that belong to no training class, from how sure the network is of its guesses.

Foreign images are guessed with less confidence, but so are hard images of known classes; what is usual for these, the
labelled ones tell. Two histograms over a window of steps, of the largest probability of unmixed views: F_x of labelled
rows, F_u of unlabelled ones, as cumulative shares. Both together, weighted alike, are split where the variance between
the two sides is largest (Otsu 1979), at t; then

    γ = (F_u(t) − F_x(t)) / (1 − F_x(t)),    at least 0 and at most 0.9

which corrects the share below t for the known images that lie there too (Rogan & Gladen 1978). While the window fills,
γ grows with it. With no difference between the two, as before the network has learnt anything, γ is 0.

It says how many rows stand out, not how many are foreign: foreign images that the network is sure of are not counted,
so γ is too small rather than too large, and too large where few labels are learnt by heart. Never reads a label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 100
WINDOW = 100  # steps: time constant of the histograms
LARGEST = 0.9  # some rows must be left to learn from


def init_state() -> dict[str, Tensor]:
    """`confidences`: float32 [2, 100], histograms of labelled and unlabelled confidences; their sums approach 1."""
    return {"confidences": torch.zeros(2, BINS)}


@torch.no_grad()
def observe(state: dict[str, Tensor], labeled: Tensor, unlabeled: Tensor) -> None:
    """Count one step's confidences, in [0, 1], [n] and [m], in place."""
    counted = torch.stack([_histogram(labeled), _histogram(unlabeled)])
    state["confidences"].lerp_(counted, 1 / WINDOW)


def share(confidences: Tensor) -> Tensor:
    """γ of the two histograms [2, 100]: 0-dim, in [0, 0.9]."""
    filled = confidences.sum(1, keepdim=True)
    density = confidences / filled.clamp(min=1e-12)
    below = density.cumsum(1)
    known, all_rows = below.index_select(1, _split(density.mean(0)).view(1)).flatten().unbind()
    foreign = (all_rows - known) / (1 - known).clamp(min=1e-6)
    return (foreign * filled[1, 0]).clamp(0, LARGEST)


def _split(density: Tensor) -> Tensor:
    """The last bin of the lower part, int64 0-dim: the first of those that separate the two best."""
    centre = torch.arange(BINS, dtype=density.dtype, device=density.device) + 0.5
    lower, mean = density.cumsum(0), (density * centre).cumsum(0)
    between = (mean[-1] * lower - mean).square() / (lower * (1 - lower)).clamp(min=1e-6)
    return between.argmax()


def _histogram(confidence: Tensor) -> Tensor:
    """Share of the rows in each bin, float32 [100]."""
    place = (confidence * BINS).to(torch.int64).clamp(max=BINS - 1)
    return F.one_hot(place, BINS).to(torch.float32).mean(0)
