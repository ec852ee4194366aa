"""Makes the views of a step on the device, from uint8 images and the host's draws: weak, strong, CTAugment's probe.

Pure functions of tensors that never wait for the device, so that they can be compiled together with the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.augment import ctaugment, flip_shift, randaugment
from trainer.contract import Batch, Kind, Views


@dataclass
class Raw:
    """One step's inputs on the training device, before augmentation.

    Attributes:
        x: uint8 [B, H, W, 3], labelled images; in a run on embeddings float32 [B, views, D], the views themselves.
        y: int64 [B], their labels.
        u: the same of U unlabelled images; None unless the method declares views of them.
        views: the draws of each view, of labelled images, then of unlabelled ones, then of the second stream: "weak"
            int64 [n, 3], and those of the policy; none of embeddings.
        draws: the method's own draws.
        schedule: float32 [S + 2], the values of the method's schedule, then 1 if the layers below the heads are
            trained, else 0, then the learning rate of the step.
        ood: bool [U], True for samples of no training class; None unless the store is a mismatch store.
        u_id: int64 [U], position of each unlabelled sample's image in the run's unlabelled index array.
        second: the same of the second unlabelled stream; None unless the method declares one.
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


def make_batch(raw: Raw, declared: Views, names: tuple[str, ...], state: Mapping[str, Tensor]) -> Batch:
    """Make every view that a method declares.

    Args:
        raw: the inputs.
        declared: what the method declares.
        names: names of the schedule's values.
        state: the method's state, which has CTAugment's weights in it.
    """
    drawn = iter(raw.views)

    def views_of(images: Tensor | None, kinds: tuple[Kind, ...]) -> list[Tensor]:
        if images is not None and images.is_floating_point():
            return list(images.unbind(1))
        return [_view(images, kind, next(drawn), declared, state) for kind in kinds]

    labeled = views_of(raw.x, declared.labeled)
    unlabeled, second = views_of(raw.u, declared.unlabeled), views_of(raw.second, declared.second)
    probe, probed = None, {}
    if "probe" in declared.labeled:
        place = declared.labeled.index("probe")
        probe, probed = labeled.pop(place), {name: raw.views[place][name] for name in ("op", "level")}
    return Batch(
        x=labeled[0],
        y=raw.y,
        u=tuple(unlabeled),
        probe=probe,
        draws={**raw.draws, **probed},
        schedule={name: raw.schedule[i] for i, name in enumerate(names)},
        u_id=raw.u_id,
        second=tuple(second),
        second_id=raw.second_id,
        more_x=tuple(labeled[1:]),
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


def as_input(samples: Tensor) -> Tensor:
    """What a network reads of plain samples: images uint8 [n, H, W, 3] in [−1, 1], embeddings as they are."""
    return samples if samples.is_floating_point() else flip_shift.scale(samples)
