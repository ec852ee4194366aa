"""The average of the weights against its closed form, and what it leaves alone."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import nn

from networks.build import build_model
from stores.errors import StoreError
from trainer.ema import Ema


def constant(value: float) -> nn.Linear:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def test_distance_to_a_constant_decays_without_bias_correction() -> None:
    model = constant(0.0).double()
    ema = Ema(model, 0.999)
    assert all((shadow == 0).all() for shadow in ema.shadow)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    seen = {}
    for step in range(1, 5001):
        ema.update()
        seen[step] = ema.shadow[0][0, 0].item()
    assert [seen[step] for step in (1, 2, 10)] == pytest.approx([0.001, 0.001999, 0.009955], abs=5e-7)
    assert [1 - seen[step] for step in (1000, 5000)] == pytest.approx([0.367695, 0.006721], abs=5e-7)


def test_starts_at_the_initial_weights() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.999)
    assert torch.equal(ema.state_dict()["weight"], model.weight)
    assert ema.state_dict()["weight"].data_ptr() != model.weight.data_ptr()


def test_evaluation_takes_averaged_weights_and_live_statistics() -> None:
    live = build_model("wrn-10-1", 3, bn_momentum=0.1)
    copied, ema = copy.deepcopy(live), Ema(live, 0.9)
    live(torch.randn(8, 3, 8, 8), update=0)
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(1)
    ema.update()
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    start = {name: tensor.clone() for name, tensor in copied.named_parameters()}
    ema.apply_to(copied)
    for name, parameter in copied.named_parameters():
        assert torch.allclose(parameter, start[name] + 0.1, atol=1e-6), name
    for (name, buffer), live_buffer in zip(copied.named_buffers(), live.buffers(), strict=True):
        assert torch.equal(buffer, live_buffer), name
        assert not torch.equal(buffer, torch.full_like(buffer, float(name.endswith("var")))), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in live.state_dict().items())
    assert sum("bn" in name for name in ema.names) == 2 * 7, "γ and β are averaged"
    assert not any("running" in name for name in ema.names)


def test_evaluation_needs_a_separate_copy() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="separate"):
        Ema(model, 0.9).apply_to(model)


def test_state_survives_a_round_trip_and_names_are_plain() -> None:
    model = build_model("wrn-10-1", 3)
    compiled = cast("nn.Module", torch.compile(model, backend="eager"))
    one, two = Ema(compiled, 0.5), Ema(constant_like(model, 2.0), 0.5)
    assert list(one.state_dict()) == [name for name, _ in model.named_parameters()]
    two.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(one.shadow, two.shadow, strict=True))


def constant_like(model: nn.Module, value: float) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(value)
    return other


def test_a_shadow_of_another_network_is_refused() -> None:
    with pytest.raises(StoreError, match="another network"):
        Ema(nn.Linear(2, 2), 0.9).load_state_dict(Ema(nn.Linear(2, 3), 0.9).state_dict())
