"""The optimizer, and at which rate each parameter learns: the heads at lr, layers below them slower if asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.network import BACKBONE, Network, kernels
from trainer.config import RunConfig
from trainer.loop import fused
from trainer.runs.checkpoint import Optimizer


@dataclass(frozen=True)
class Group:
    """Parameters that learn at one rate.

    Attributes:
        params: all of them; kernels: those that weight decay shrinks.
        share: their learning rate, times that of the step.
        below: whether they lie below the heads.
        decay: weight decay of the kernels.
    """

    params: list[Tensor]
    kernels: list[Tensor]
    share: float
    below: bool
    decay: float


def groups_of(model: nn.Module, run: RunConfig) -> list[Group]:
    """The groups of a network's parameters, of the first layers first; one group if all learn alike.

    Layer l of L has the share backbone_lr · layer_decay^(L − l); the heads are layer L.
    """
    decayed = {id(kernel) for kernel in kernels(model)}
    named: list[tuple[str, Tensor]] = list(model.named_parameters())
    if run.backbone_lr == run.layer_decay == 1 and not run.head_first and run.largest_decay is None:
        params = [parameter for _, parameter in named]
        return [Group(params, [p for p in params if id(p) in decayed], 1.0, False, run.weight_decay)]
    assert isinstance(model, Network)
    layers = model.layers()
    top = max(layers.values(), default=-1) + 1
    by_layer: dict[int, list[Tensor]] = {}
    for name, parameter in named:
        layer = layers[name] if name.split(".")[0] in BACKBONE else top
        by_layer.setdefault(layer, []).append(parameter)
    groups = []
    for layer, params in sorted(by_layer.items()):
        below = layer < top
        share = run.backbone_lr * run.layer_decay ** (top - layer) if below else 1.0
        decay = run.weight_decay
        if below and run.largest_decay is not None and share > 0:
            decay = min(decay, run.largest_decay / (run.lr * share))
        groups.append(Group(params, [p for p in params if id(p) in decayed], share, below, decay))
    return groups


def build_optimizer(model: nn.Module, run: RunConfig) -> fused.Optimizer:
    """The papers' two: Adam without weight decay of its own, or SGD with Nesterov momentum and L2 on the kernels.

    Its learning rates are tensors on the device, so that a recorded step can follow a schedule; `update` sets them.
    """
    device = next(model.parameters()).device
    entries: list[fused.Group] = []
    for group in groups_of(model, run):
        if run.optimizer == "adam":
            entries.append({"params": group.params})
        else:
            chosen = {id(weight) for weight in group.kernels}
            others = [parameter for parameter in group.params if id(parameter) not in chosen]
            entries.append({"params": group.kernels, "weight_decay": group.decay})
            entries.append({"params": others, "weight_decay": 0.0})
    for entry in entries:
        entry["lr"] = torch.tensor(run.lr, dtype=torch.float32, device=device)
    return fused.Optimizer(entries, fused.adam() if run.optimizer == "adam" else fused.sgd(run.momentum))


@torch.no_grad()
def update(optimizer: Optimizer, groups: list[Group], lr: Tensor, backbone: Tensor, adam: bool) -> None:
    """The optimizer's step and the decay of the kernels, from the gradients that are there.

    Args:
        groups: those that the optimizer was built from.
        lr: float32 [] on the device, the learning rate of the step.
        backbone: float32 [] on the device, 0 while the heads alone are trained, else 1.
        adam: whether it is Adam; SGD's decay is part of its gradient.
    """
    rates = [group_rate(group, lr, backbone) for group in groups]
    each = 1 if adam else 2
    for i, entry in enumerate(optimizer.param_groups):
        entry["lr"].copy_(rates[i // each])
    optimizer.step()
    if adam:
        for group, rate in zip(groups, rates, strict=True):
            if group.kernels:
                decay(group.kernels, 1 - group.decay * rate)


def group_rate(group: Group, lr: Tensor, backbone: Tensor) -> Tensor:
    """The learning rate of a group; exactly `lr` where it learns at that."""
    rate = lr if group.share == 1 else lr * group.share
    return rate * backbone if group.below else rate


def decay(weights: list[Tensor], factor: float | Tensor) -> None:
    """Decoupled weight decay of the MixMatch family: kernels alone, by a factor that does not pass through Adam."""
    torch._foreach_mul_(weights, factor)
