"""The views of a step, made on the device from uint8 images and what the host drew: weak, strong, CTAugment's probe.

Pure functions of tensors, without waiting for the device, so that they are compiled together with the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer import augment
from trainer.methods.contract import Batch, Views


@dataclass
class Raw:
    """One step's inputs on the training device, before augmentation.

    Attributes:
        x, u: uint8 [B, H, W, 3] labelled and [U, H, W, 3] unlabelled images, 0–255; u is None where none are needed.
        y: int64 [B].
        views: what was drawn for each view, labelled ones first: "weak" int64 [n, 3], and the policy's draws.
        draws: the method's.
        schedule: float32 [S + 1], the method's schedule and, last, the step's learning rate.
        ood: bool [U], samples of no training class; None unless the store is a mismatch store.
    """

    x: Tensor
    y: Tensor
    u: Tensor | None
    views: tuple[Mapping[str, Tensor], ...]
    draws: Mapping[str, Tensor]
    schedule: Tensor
    ood: Tensor | None = None


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
    probe = labeled[declared.labeled.index("probe")] if "probe" in declared.labeled else None
    return Batch(
        x=labeled[0],
        y=raw.y,
        u=tuple(unlabeled),
        probe=probe,
        draws=raw.draws,
        schedule={name: raw.schedule[i] for i, name in enumerate(names)},
    )


def _view(
    images: Tensor | None, kind: str, drawn: Mapping[str, Tensor], declared: Views, state: Mapping[str, Tensor]
) -> Tensor:
    assert images is not None
    with torch.no_grad():
        return augment.scale(augment.move(images, drawn["weak"]))
