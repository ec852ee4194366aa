"""Our optimizers against torch.optim's fused ones, bit for bit, and what they make of a state from outside."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from networks.build import build_model
from trainer.config import RunConfig
from trainer.loop.fused import Optimizer
from trainer.loop.optimizer import build_optimizer

RUNS = {
    "adam": RunConfig(lr=0.01),
    "sgd": RunConfig(optimizer="sgd", lr=0.03, weight_decay=0.5, momentum=0.9),
    "plain": RunConfig(optimizer="sgd", lr=0.03, weight_decay=0.5, momentum=0.0),
}


def pair(name: str) -> tuple[nn.Module, Optimizer, nn.Module, torch.optim.Optimizer]:
    """A network under our optimizer, and its copy under torch's with the same groups."""
    torch.manual_seed(0)
    ours = build_model("wrn-10-1", 3).to(memory_format=torch.channels_last)
    theirs, run = copy.deepcopy(ours), RUNS[name]
    twin = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
    optimizer = build_optimizer(ours, run)
    groups = [{**group, "params": [twin[p] for p in group["params"]]} for group in optimizer.param_groups]
    if name == "adam":
        return ours, optimizer, theirs, torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)
    return ours, optimizer, theirs, torch.optim.SGD(groups, momentum=run.momentum, nesterov=name == "sgd", fused=True)


def advance(model: nn.Module, optimizer: Any, steps: range, late: bool = False) -> None:
    """Steps from made-up gradients; `late`: the first parameter has none before step 2."""
    for step in steps:
        optimizer.zero_grad()
        rng = torch.Generator().manual_seed(step)
        for i, parameter in enumerate(model.parameters()):
            if i or step > 1 or not late:
                parameter.grad = torch.empty_like(parameter).normal_(generator=rng)  # in its layout, as autograd's
        for group in optimizer.param_groups:
            group["lr"].fill_(0.01 / (step + 1))
        optimizer.step()


@pytest.mark.parametrize("name", RUNS)
def test_the_same_numbers_as_torch(name):
    ours, optimizer, theirs, reference = pair(name)
    late = name == "adam"  # torch's SGD cannot do it
    advance(ours, optimizer, range(4), late)
    advance(theirs, reference, range(4), late)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", RUNS)
def test_a_state_that_torch_saved_goes_on_here(name):
    """Checkpoints of earlier versions hold such."""
    ours, optimizer, theirs, reference = pair(name)
    advance(theirs, reference, range(3))
    ours.load_state_dict(theirs.state_dict())
    optimizer.load_state_dict(reference.state_dict())
    advance(ours, optimizer, range(3, 5))
    advance(theirs, reference, range(3, 5))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that says it is large, over the memory of one number."""
    return tensor.flatten()[:1].expand(tensor.numel()).view(tensor.shape)


def test_a_state_with_less_memory_than_it_says_is_copied():
    ours, optimizer, _, _ = pair("adam")
    advance(ours, optimizer, range(2))
    content = optimizer.state_dict()
    content["state"] = {i: {k: spread(v) for k, v in own.items()} for i, own in content["state"].items()}
    optimizer.load_state_dict(content)
    assert all(t.untyped_storage().nbytes() >= 4 * t.numel() for own in optimizer.state.values() for t in own.values())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["param_groups"].pop(),
        lambda content: content["param_groups"][0]["params"].pop(),
        lambda content: content["state"].update({999: content["state"].pop(0)}),
        lambda content: content["state"][0].pop("exp_avg"),
        lambda content: content["state"][0].update(exp_avg=torch.zeros(2)),
        lambda content: content["state"][0].update(step=3),
        lambda content: content.update(state=None),
    ],
)
def test_a_state_of_something_else_is_an_error(damage):
    ours, optimizer, _, _ = pair("adam")
    advance(ours, optimizer, range(3))
    content, before = copy.deepcopy(optimizer.state_dict()), optimizer.state
    damage(content)
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        optimizer.load_state_dict(content)
    assert optimizer.state is before
