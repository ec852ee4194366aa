"""What a method promises the training loop and what it gets: views, sizes, a batch, and losses.

A method is a module, never a class: NAME, SUMMARY, a frozen dataclass `Settings`, PRESETS by dataset family, and the
functions `views`, `draw`, `schedule` and `loss`. It sees tensors and settings only: no store, no optimiser, no device
transfer, no generator of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from stores.errors import UsageError


@dataclass(frozen=True)
class Views:
    """What the feed must bring for one step.

    Attributes:
        unlabeled: "none"; "base": the images themselves; "copies": the stored copies, one of them per drawn sample.
        weak_u: weak views of each unlabelled sample, independent draws on the SAME copy.
        labeled_in_unlabeled: whether the unlabelled pool also holds the labelled images.
        ratio: unlabelled samples per labelled sample (μ).
    """

    unlabeled: Literal["none", "base", "copies"]
    weak_u: int
    labeled_in_unlabeled: bool
    ratio: int = 1


@dataclass(frozen=True)
class Sizes:
    """Rows of one step: labelled samples B, unlabelled samples U (before their views are counted), classes K."""

    labeled: int
    unlabeled: int
    num_classes: int


@dataclass
class Batch:
    """One step's tensors on the training device.

    Attributes:
        x: float32 [B, 3, H, W] in [−1, 1], weakly augmented.
        y: int64 [B] in [0, K).
        u: one float32 [U, 3, H, W] per weak view, in [−1, 1]; row i of every view comes from the same copy.
        draws: what the method's `draw` returned, as tensors.
        schedule: what the method's `schedule` returned, as 0-dim float32 tensors.
    """

    x: Tensor
    y: Tensor
    u: tuple[Tensor, ...] = ()
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    schedule: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Losses:
    """What one step returns.

    Attributes:
        total: 0-dim, to be differentiated.
        metrics: 0-dim tensors without gradient; reading them is the only thing that waits for the device.
        keep_u: float [V·U], 1 = kept by the out-of-distribution mask, view-major (all rows of view 0, then of view 1…);
            None for a method without such a mask.
    """

    total: Tensor
    metrics: dict[str, Tensor]
    keep_u: Tensor | None = None


class Method(Protocol):
    """The module itself, as `trainer.methods.load_method` returns it."""

    NAME: str
    SUMMARY: str
    Settings: type
    PRESETS: dict[str, dict[str, Any]]

    def views(self, settings: Any) -> Views:
        """What the feed must bring."""

    def draw(self, rng: np.random.Generator, sizes: Sizes, settings: Any) -> dict[str, np.ndarray]:
        """The step's random numbers beyond the views, on the host; always the same shapes and dtypes."""

    def schedule(self, step: int, steps: int, num_classes: int, settings: Any) -> dict[str, float]:
        """Ramps of this step; `step` is the counter before the update (0 at the first), `steps` the run's length."""

    def loss(self, model: nn.Module, batch: Batch, settings: Any) -> Losses:
        """Forward passes and losses of one step."""


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Refuse a setting out of its range: for the `__post_init__` of a method's Settings.

    Raises:
        UsageError: `ok` is false.
    """
    if not ok:
        raise UsageError(f"{key} = {value!r} is out of range", hint=f"{key} must be {expected}")
