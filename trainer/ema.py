"""Exponential moving average of a model's parameters.

The average starts at the initial parameters, without bias correction, and holds trained parameters alone: BatchNorm's
running statistics belong to the live model and are copied for evaluation, never averaged. Published results cannot be
reproduced with averaged or stale statistics.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from stores.errors import StoreError


class Ema:
    """Shadow of `model`'s parameters: shadow ← decay·shadow + (1 − decay)·parameter at each `update`.

    Args:
        model: the live model; compiled or wrapped ones are fine.
        decay: in [0, 1); the papers use .999.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.names = [_plain(name) for name, _ in model.named_parameters()]
        self.live = [parameter.detach() for parameter in model.parameters()]
        self.shadow = [parameter.clone() for parameter in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """After the optimiser's step and the weight decay."""
        torch._foreach_lerp_(self.shadow, self.live, 1 - self.decay)

    @torch.no_grad()
    def apply_to(self, eval_model: nn.Module) -> None:
        """Copy the shadow and the live model's buffers into `eval_model`, a separate copy of the model."""
        parameters = [parameter.detach() for parameter in eval_model.parameters()]
        buffers = list(eval_model.buffers())
        live_buffers = list(self.model.buffers())
        assert len(parameters) == len(self.shadow), "the evaluation copy is another network"
        assert len(buffers) == len(live_buffers), "the evaluation copy is another network"
        assert not {p.data_ptr() for p in parameters} & {p.data_ptr() for p in self.live}, "not a separate copy"
        torch._foreach_copy_(parameters, self.shadow)
        if buffers:
            torch._foreach_copy_(buffers, live_buffers)

    def teacher(self) -> nn.Module:
        """A network whose parameters are the shadow and whose buffers are the live model's, without copies.

        It is in training mode, as the live model; the caller chooses the statistics that normalise.
        """
        network = copy.deepcopy(self.model).requires_grad_(False)
        for parameter, shadow in zip(network.parameters(), self.shadow, strict=True):
            parameter.data = shadow
        for module, live in zip(network.modules(), self.model.modules(), strict=True):
            module._buffers.update(live._buffers)
        return network

    def state_dict(self) -> dict[str, Tensor]:
        """The shadow by parameter name; tensors are not copied."""
        return dict(zip(self.names, self.shadow, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a shadow in place.

        Raises:
            StoreError: names or shapes are another network's.
        """
        shapes = {name: shadow.shape for name, shadow in zip(self.names, self.shadow, strict=True)}
        if shapes != {name: tensor.shape for name, tensor in state.items()}:
            raise StoreError("the averaged weights are of another network", hint="resume with the run's own --model")
        for name, shadow in zip(self.names, self.shadow, strict=True):
            shadow.copy_(state[name])


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile and DistributedDataParallel put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")
