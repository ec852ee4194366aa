"""What a method promises the training loop and what it gets: views, sizes, a batch, networks, and losses.

A method is a module, never a class: NAME, SUMMARY, a frozen dataclass `Settings`, PRESETS by dataset family, and the
functions `views`, `draw`, `schedule`, `init_state` and `loss`. It sees tensors and settings only: no store, no
optimiser, no device, no process group, no generator of its own. Its rows are those of the whole step, however many
processes share the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from stores.errors import UsageError

Kind = Literal["weak", "strong", "probe"]
Policy = Literal["randaugment", "uda", "ctaugment"]


@dataclass(frozen=True)
class Views:
    """What the feed must bring for one step.

    Attributes:
        labeled: the views of each labelled sample.
        unlabeled: the views of each unlabelled sample, independent draws on the SAME image or copy; () needs none.
        second: the views of each sample of a second unlabelled stream, which draws from the images that are True in
            `state["second"]` (bool [N_u], from `init_state`; a hook may change it); () for none.
        source: what an unlabelled sample is: "base", an image, or "copies", one of its stored copies.
        labeled_in_unlabeled: whether the unlabelled pool also holds the labelled images.
        ratio: unlabelled samples per labelled sample (μ).
        policy: what makes a "strong" view of a weak one; a "probe" is a weak view under CTAugment's uniform levels.
        cutout: whether the policy ends with CutOut (only CTAugment asks; RandAugment's variants always do).
        cta_legacy: CTAugment translates by parts of a pixel, as the authors' code does.
        teacher: the method needs the network with averaged weights.
        rotation: the network has a second head, for four rotations.
        mismatch: the loop estimates the share of unlabelled images that are foreign into the method's state `gamma`,
            every 100 to 500 steps (`trainer.evaluation.mismatch_share`).
        one_graph: the compiler may take the loss as a whole; False where the loss differentiates on its way (VAT).
    """

    labeled: tuple[Kind, ...] = ("weak",)
    unlabeled: tuple[Kind, ...] = ()
    second: tuple[Kind, ...] = ()
    source: Literal["base", "copies"] = "base"
    labeled_in_unlabeled: bool = False
    ratio: int = 1
    policy: Policy | None = None
    cutout: bool = False
    cta_legacy: bool = False
    teacher: bool = False
    rotation: bool = False
    mismatch: bool = False
    one_graph: bool = True


@dataclass(frozen=True)
class Sizes:
    """Rows of one step: labelled samples B, unlabelled samples U (before their views are counted), classes K, H × W."""

    labeled: int
    unlabeled: int
    num_classes: int
    image_size: tuple[int, int] = (32, 32)
    num_unlabeled: int = 0
    num_valid: int = 0


@dataclass
class Batch:
    """One step's tensors on the training device.

    Attributes:
        x: float32 [B, 3, H, W] in [−1, 1], the first labelled view.
        y: int64 [B] in [0, K).
        u: one float32 [U, 3, H, W] per unlabelled view, in [−1, 1]; row i of every view comes from the same sample.
        probe: float32 [B, 3, H, W], the labelled view of kind "probe"; None unless asked for.
        draws: what the method's `draw` returned, as tensors; with a probe also what CTAugment drew for it.
        schedule: what the method's `schedule` returned, as 0-dim float32 tensors.
    """

    x: Tensor
    y: Tensor
    u: tuple[Tensor, ...] = ()
    probe: Tensor | None = None
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    schedule: Mapping[str, Tensor] = field(default_factory=dict)


class Network(Protocol):
    """A network as a method calls it; see `trainer.networks.wide_resnet.WideResNet.forward`."""

    def __call__(
        self, rows: Tensor, groups: int = 1, update: int | None = None, *, running: bool = False,
        head: Literal["classes", "rotation"] = "classes",
    ) -> Tensor:  # fmt: skip
        """Images [n, 3, H, W] to logits [n, K], each of `groups` equal parts normalised by its own statistics."""


@dataclass
class Learner:
    """What a method trains with.

    Attributes:
        model: the network with the live weights.
        teacher: the network with the averaged weights as they were before this step; it has no gradient, never updates
            statistics, and with `running=True` is the evaluated model. None unless the method asks for it.
        state: the method's own tensors, from `init_state`; `loss` changes them in place, checkpoints keep them.
    """

    model: Network
    teacher: Network | None = None
    state: dict[str, Tensor] = field(default_factory=dict)


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

    def init_state(self, num_classes: int, settings: Any) -> dict[str, Tensor]:
        """The method's own tensors before the first step, on the host; {} for most."""

    def loss(self, learner: Learner, batch: Batch, settings: Any) -> Losses:
        """Forward passes and losses of one step: exactly one forward pass names a group whose statistics move the
        running ones (`update`)."""


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Refuse a setting out of its range: for the `__post_init__` of a method's Settings.

    Raises:
        UsageError: `ok` is false.
    """
    if not ok:
        raise UsageError(f"{key} = {value!r} is out of range", hint=f"{key} must be {expected}")
