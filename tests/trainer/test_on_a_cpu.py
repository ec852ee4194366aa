"""What a run on a CPU does where neither its network nor its length was asked for, and what it says about it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from networks.build import build_model
from networks.cost import multiplications, outputs
from stores import open_store
from trainer import api
from trainer.config import RunConfig, cpu
from trainer.loop import pace
from trainer.loop.assemble import HELD

SMALL = {"model": "wrn-10-1", "steps": 2000, "batch": 16}


def configured(tiny, *assignments: str, **flags: object):
    return api.configure(open_store(tiny.with_name("tiny_20")), assignments, {"device": "cpu", **flags})


def test_what_nobody_asked_for_is_small_and_said(tiny):
    spec = configured(tiny)
    assert {name: getattr(spec.run, name) for name in SMALL} == SMALL
    assert spec.settings.rampup_steps <= 600
    assert spec.deviations[0].startswith(
        "model wrn-10-1 instead of wrn-28-2, steps 2,000 instead of 500,000, batch 16 instead of 64"
    )
    assert spec.record()["deviations"] == list(spec.deviations)


def test_what_somebody_asked_for_stays(tiny):
    longer = configured(tiny, steps=3)
    assert (longer.run.model, longer.run.steps, longer.run.batch) == ("wrn-10-1", 3, 64)
    larger = configured(tiny, "model=wrn-28-2", "batch=8")
    assert (larger.run.model, larger.run.steps, larger.run.batch) == ("wrn-28-2", 2000, 8)
    assert "batch 16" not in larger.deviations[0]
    whole = configured(tiny, "rampup_steps=7", model="wrn-28-2", steps=500_000)
    assert (whole.run.model, whole.run.steps, whole.run.batch) == ("wrn-28-2", 500_000, 64)
    assert (whole.settings.rampup_steps, whole.deviations) == (7, ())


@pytest.mark.parametrize(
    ("size", "network", "steps"),
    [
        ((8, 8), "wrn-10-1", 2000),
        ((32, 32), "wrn-10-1", 2000),
        ((48, 48), "wrn-10-1", 900),
        ((224, 224), "wrn-13-1", 200),
    ],
)
def test_larger_images_have_fewer_steps(size, network, steps):
    chosen = cpu.preset((), RunConfig(), SimpleNamespace(), size)
    assert chosen == {"model": network, "steps": steps, "batch": 16}


def test_a_pretrained_network_keeps_its_own_length():
    assert cpu.preset({"model"}, RunConfig(model="timm:resnet18"), SimpleNamespace(), (64, 64)) == {}
    assert cpu.told({}, "wrn-28-2") == []


def test_the_multiplications_of_a_network_are_those_of_its_layers():
    model = build_model("wrn-10-1", 3)
    groups = [(16, 16, 32), (16, 32, 16), (32, 64, 8)]  # inputs, outputs, side of one block each
    blocks = sum((9 * a * b + 9 * b * b + (a * b if a != b else 0)) * side**2 for a, b, side in groups)
    expected = 27 * 16 * 32**2 + blocks + 64 * 3
    assert multiplications(model, (32, 32)) == expected
    held = 16 * 32**2 + sum(2 * b * side**2 + (b * side**2 if a != b else 0) for a, b, side in groups)
    assert outputs(model, (32, 32)) == held
    assert multiplications(model, (64, 64)) == 4 * (expected - 64 * 3) + 64 * 3
    with torch.device("meta"):
        assert multiplications(build_model("wrn-10-1", 3), (32, 32)) == expected


def test_the_papers_run_is_compared_with_this_one(tiny):
    spec = configured(tiny)
    size, classes = spec.store.dataset.image_size, spec.store.num_classes
    theirs, own = (multiplications(build_model(name, classes), size) for name in ("wrn-28-2", "wrn-10-1"))
    assert pace.papers_multiple(spec) == pytest.approx(theirs / own * (500_000 * 64) / (2000 * 16))
    said = pace.estimate(spec, 100.0)
    assert said.startswith("about 1:40 to go; the papers' run, 500,000 steps of 64 with wrn-28-2, would take about ")
    whole = configured(tiny, model="wrn-28-2", steps=500_000)
    assert pace.estimate(whole, 5e6).endswith("without --steps and --model it ends in minutes on a CPU")
    assert pace.estimate(whole, 60.0) == "about 1:00 to go"


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-28-2"])
def test_a_step_holds_more_than_what_convolutions_give(name: str) -> None:
    """Most of what is counted for the check of a batch is kept for the backward pass, which adds to it."""
    model, held, images = build_model(name, 10), dict[int, int](), 4

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 4 and len(tensor) == images:
            held[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = model(torch.rand(images, 3, 32, 32))
    assert kept.requires_grad
    assert 1.5 <= sum(held.values()) / (images * outputs(model, (32, 32))) <= HELD
