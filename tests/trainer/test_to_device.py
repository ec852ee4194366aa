"""On its way to the device no tensor of a step is forgotten, and nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trainer.augment.views import Raw
from trainer.data.to_device import Transfer, each_tensor, tensors_of

CPU = torch.device("cpu")


def raw(**changes) -> Raw:
    views = ({"weak": torch.zeros(4, 3, dtype=torch.int64), "ops": torch.ones(4, 2)}, {"weak": torch.zeros(8, 3)})
    made = Raw(
        x=torch.zeros(4, 8, 8, 3, dtype=torch.uint8),
        y=torch.arange(4),
        u=torch.ones(8, 8, 8, 3, dtype=torch.uint8),
        views=views,
        draws={"lam": torch.rand(4)},
        schedule=torch.rand(3),
        ood=torch.zeros(8, dtype=torch.bool),
        u_id=torch.arange(8),
        second=torch.ones(8, 8, 8, 3, dtype=torch.uint8),
        second_id=torch.arange(8),
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    "inputs",
    [raw(), raw(u=None, ood=None, u_id=None, second=None, second_id=None), raw(draws={}, views=())],
    ids=["all", "few", "none"],
)
def test_every_tensor_moves(inputs):
    moved = each_tensor(inputs, lambda tensor: tensor.to("meta"))
    before, after = tensors_of(inputs), tensors_of(moved)
    assert len(before) == len(after) == sum(map(count, dataclasses.astuple(inputs)))
    assert {tensor.device.type for tensor in after} == {"meta"}
    assert {tensor.device.type for tensor in before} == {"cpu"}, "the inputs stay"
    for was, now in zip(before, after, strict=True):
        assert (was.shape, was.dtype) == (now.shape, now.dtype)
    assert (moved.u is None, moved.ood is None) == (inputs.u is None, inputs.ood is None)


def count(value) -> int:
    if isinstance(value, dict | tuple | list):
        return sum(map(count, value.values() if isinstance(value, dict) else value))
    return int(isinstance(value, torch.Tensor))


def test_what_is_no_tensor_stays():
    inputs = {"a": (1, "two", None), "b": torch.zeros(1)}
    assert each_tensor(inputs, lambda tensor: tensor + 1) == {"a": (1, "two", None), "b": torch.ones(1)}


def test_on_a_cpu_it_is_the_identity():
    inputs, transfer = raw(), Transfer(CPU)
    with transfer.aside():
        sent, ready = transfer.send(inputs)
    assert ready is None
    assert transfer.receive(sent, ready) is inputs
