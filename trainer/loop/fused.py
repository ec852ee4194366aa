"""Adam and SGD by torch's fused kernels: the numbers of torch.optim's classes, whose state can be loaded.

Those import torch._dynamo, which takes longer than all the rest of torch, when they are made and when they step. An
eager run needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]  # "params"; "lr", float32 [] on their device; "weight_decay", which is L2
Memory = dict[str, Tensor]  # what is remembered of a parameter, by name


@dataclass(frozen=True)
class Rule:
    """How an optimizer moves parameters.

    Attributes:
        remember: what it remembers of a parameter before the first step.
        move: one step of a group's parameters, given with their gradients and what is remembered of each.
    """

    remember: Callable[[Tensor], Memory]
    move: Callable[[Group, list[Tensor], list[Tensor], list[Memory]], None]


class Optimizer:
    """Parameters in groups, each with its own learning rate.

    Attributes:
        param_groups: whoever calls `step` sets their "lr".
        state: what is remembered, by parameter; of those that had a gradient.
    """

    def __init__(self, param_groups: list[Group], rule: Rule) -> None:
        self.param_groups, self._rule = param_groups, rule
        self.state: dict[Tensor, Memory] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moved:
                if parameter not in self.state:
                    self.state[parameter] = self._rule.remember(parameter)
            if moved:
                grads = [parameter.grad for parameter in moved]
                self._rule.move(group, moved, grads, [self.state[parameter] for parameter in moved])

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """`state` by the parameters' numbers, and the groups with these instead of parameters."""
        number = {parameter: i for i, parameter in enumerate(self._parameters())}
        groups = [{**group, "params": [number[p] for p in group["params"]]} for group in self.param_groups]
        return {"state": {number[p]: memory for p, memory in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Go on from a state of such groups; rates and decay stay as they are here.

        Raises:
            ValueError, LookupError, TypeError: it is the state of other parameters, or of another rule.
        """
        own, saved = (
            [len(group["params"]) for group in groups] for groups in (self.param_groups, content["param_groups"])
        )
        if own != saved:
            raise ValueError(f"its optimizer has groups of {saved} parameters instead of {own}")
        parameters, state = self._parameters(), {}
        for number, memory in content["state"].items():
            state[parameters[number]] = fresh = self._rule.remember(parameters[number])
            if {name: t.shape for name, t in memory.items()} != {name: t.shape for name, t in fresh.items()}:
                raise ValueError("its optimizer remembers something else")
            for name, tensor in fresh.items():
                tensor.copy_(memory[name])
        self.state = state

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


def adam(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Rule:
    """Adam (Kingma & Ba 2015, algorithm 1), without weight decay."""

    def remember(parameter: Tensor) -> Memory:
        count = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": count, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def move(group: Group, params: list[Tensor], grads: list[Tensor], memory: list[Memory]) -> None:
        steps, means, squares = ([own[name] for own in memory] for name in ("step", "exp_avg", "exp_avg_sq"))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            params,
            grads,
            means,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    return Rule(remember, move)


def sgd(momentum: float) -> Rule:
    """SGD with Nesterov momentum (Sutskever et al. 2013), in torch's form; without any if `momentum` is 0."""

    def remember(parameter: Tensor) -> Memory:
        return {"momentum_buffer": torch.zeros_like(parameter)} if momentum else {}

    def move(group: Group, params: list[Tensor], grads: list[Tensor], memory: list[Memory]) -> None:
        buffers = [own["momentum_buffer"] for own in memory] if momentum else []
        torch._fused_sgd_(
            params,
            grads,
            buffers,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            dampening=0.0,
            nesterov=momentum > 0,
            maximize=False,
            is_first_step=False,
        )

    return Rule(remember, move)
