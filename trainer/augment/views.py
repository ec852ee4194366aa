"""The views of a step, made on the device from uint8 images and what the host drew: weak, strong, CTAugment's probe.

Pure functions of tensors, without waiting for the device, so that they are compiled together with the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stores.errors import UsageError
from trainer.augment import ctaugment, flip_shift, randaugment
from trainer.contract import Batch, Kind, Views, require


@dataclass
class Raw:
    """One step's inputs on the training device, before augmentation.

    Attributes:
        x, u: uint8 [B, H, W, 3] labelled and [U, H, W, 3] unlabelled images, 0–255; u is None where none are needed.
        y: int64 [B].
        views: what was drawn for each view: of labelled images, unlabelled ones, the second stream; "weak" int64
            [n, 3], and the policy's draws.
        draws: the method's.
        schedule: float32 [S + 1], the method's schedule and, last, the step's learning rate.
        ood: bool [U], samples of no training class; None unless the store is a mismatch store.
        u_id: int64 [U], position of each unlabelled sample's image in the run's unlabelled index array.
        second: uint8 [U, H, W, 3], images of the second unlabelled stream; None unless the method declares one.
        second_id: int64 [U], their positions in the run's unlabelled index array.
    """

    x: Tensor
    y: Tensor
    u: Tensor | None
    views: tuple[Mapping[str, Tensor], ...]
    draws: Mapping[str, Tensor]
    schedule: Tensor
    ood: Tensor | None = None
    u_id: Tensor | None = None
    second: Tensor | None = None
    second_id: Tensor | None = None


def check(declared: Views, batch: int, size: tuple[int, int]) -> None:
    """Refuse what the declared views cannot be made of: `batch` labelled images of the given height and width.

    Raises:
        UsageError: rotations of a batch without quarters, or of images that are not square.
    """
    if not declared.rotation:
        return
    require(batch % 4 == 0, "batch", batch, "a multiple of 4: rotations turn a quarter of the images each way")
    if size[0] != size[1]:
        raise UsageError("images must be square to be rotated", f"these are {size[0]} pixels high, {size[1]} wide",
                         "--set lambda_rotation=0 trains without")  # fmt: skip


def make_batch(raw: Raw, declared: Views, names: tuple[str, ...], state: Mapping[str, Tensor]) -> Batch:
    """Make every view that a method declared.

    Args:
        names: of the schedule's entries.
        state: the method's own tensors; CTAugment's weights among them.
    """
    images = [raw.x] * len(declared.labeled) + [raw.u] * len(declared.unlabeled)
    kinds = [*declared.labeled, *declared.unlabeled]
    made = [
        _view(rows, kind, drawn, declared, state) for rows, kind, drawn in zip(images, kinds, raw.views, strict=True)
    ]
    labeled, unlabeled = made[: len(declared.labeled)], made[len(declared.labeled) :]
    probe, probed = None, {}
    if "probe" in declared.labeled:
        place = declared.labeled.index("probe")
        probe, probed = labeled[place], {name: raw.views[place][name] for name in ("op", "level")}
    return Batch(
        x=labeled[0],
        y=raw.y,
        u=tuple(unlabeled),
        probe=probe,
        draws={**raw.draws, **probed},
        schedule={name: raw.schedule[i] for i, name in enumerate(names)},
    )


@torch.no_grad()
def _view(
    images: Tensor | None, kind: Kind, drawn: Mapping[str, Tensor], declared: Views, state: Mapping[str, Tensor]
) -> Tensor:
    """One view, float32 [n, 3, H, W] in [−1, 1]. Every policy starts from the weak view, UDA's ends with it."""
    assert images is not None
    if kind == "strong" and declared.policy == "uda":
        pixels = randaugment.apply(images, drawn, "uda").permute(0, 2, 3, 1)
        return flip_shift.move(pixels, drawn["weak"]).permute(0, 3, 1, 2)
    moved = flip_shift.move(images, drawn["weak"])
    if kind == "weak":
        return flip_shift.scale(moved)
    if kind == "probe":
        return ctaugment.apply_probe(moved, drawn, declared.cta_legacy)
    if declared.policy == "ctaugment":
        return ctaugment.apply(moved, drawn, state, declared.cutout, declared.cta_legacy)
    return randaugment.apply(moved, drawn, "fixmatch")
