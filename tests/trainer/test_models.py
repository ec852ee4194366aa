"""The networks: size, shapes, initialisation, where gradients go, and which forward moves BatchNorm's statistics."""

from __future__ import annotations

import copy
import math
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from rounding import assert_same
from torch import Tensor, nn

from networks.build import build_model
from networks.layers.batch_norm import BatchNorm
from networks.network import kernels
from networks.wide_resnet import Block
from stores.errors import UsageError
from trainer.contract import Head


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("wrn-28-2", 10, 1_467_610),
        ("wrn-28-2", 6, 1_467_094),
        ("wrn-28-2", 1000, 1_595_320),
        ("wrn-37-2", 10, 5_929_434),
    ],
)
def test_number_of_parameters(name: str, classes: int, parameters: int) -> None:
    assert count(build_model(name, classes)) == parameters


def test_depth_counts_the_convolutions() -> None:
    for name, depth in [("wrn-28-2", 28), ("wrn-10-2", 10), ("wrn-37-2", 37)]:
        assert sum(isinstance(module, nn.Conv2d) for module in build_model(name, 10).modules()) == depth


def test_feature_maps_of_wrn_28_2() -> None:
    model = build_model("wrn-28-2", 10)
    shapes: list[torch.Size] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1:]))
    features = model.embed(torch.randn(2, 3, 32, 32))
    assert shapes == [(32, 32, 32)] * 4 + [(64, 16, 16)] * 4 + [(128, 8, 8)] * 4
    assert features.shape == (2, 128)
    assert model.head(features).shape == (2, 10)


@pytest.mark.parametrize(("name", "side"), [("wrn-10-1", 8), ("wrn-10-2", 32), ("wrn-13-1", 96)])
def test_any_size_of_image(name: str, side: int) -> None:
    assert build_model(name, 6)(torch.randn(2, 3, side, side)).shape == (2, 6)


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-16-2", "wrn-13-1"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 10)
    F.cross_entropy(model(torch.randn(8, 3, 16, 16)), torch.arange(8)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_first_activation_is_shared_by_the_shortcut_and_later_ones_are_not() -> None:
    model = build_model("wrn-10-2", 10).eval().double()
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    first, second, _ = cast("list[Block]", list(model.blocks))

    def expect(block: Block, x: Tensor, share: bool) -> Tensor:
        a = F.leaky_relu(x / math.sqrt(1 + 1e-3), 0.1)  # fresh BatchNorm in evaluation mode
        h = block.conv2(F.leaky_relu(block.conv1(a) / math.sqrt(1 + 1e-3), 0.1))
        return h + block.shortcut(a if share else x)

    assert_same(first(x), expect(first, x, True))
    y = torch.randn(2, 32, 8, 8, dtype=torch.float64)
    assert_same(second(y), expect(second, y, False))


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = build_model("wrn-28-2", 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * module.weight.numel()))
            assert module.bias is None
        if isinstance(module, BatchNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert model.head.weight.std().item() == pytest.approx(math.sqrt(2 / 138), rel=0.1)
    assert (model.head.bias == 0).all()


def test_kernels_are_convolution_and_dense_weights_alone() -> None:
    model = build_model("wrn-28-2", 10)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [named[id(kernel)] for kernel in kernels(model)]
    assert len(names) == 29
    assert sum(kernel.numel() for kernel in kernels(model)) == 1_462_704 + 1_280
    assert not any("bn" in name or name.endswith("bias") for name in names)


@pytest.mark.parametrize(
    "name", ["resnet50", "wrn", "wrn-28", "wrn-27-2", "wrn-4-1", "wrn-5-1", "wrn-10-0", "wrn-28-2x"]
)
def test_unknown_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown model '{name}'") as caught:
        build_model(name, 10)
    assert "wrn-28-2" in str(caught.value)


def running(model: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


def test_one_update_of_the_running_statistics() -> None:
    norm = BatchNorm(1, momentum=0.001).double()
    x = torch.tensor([0.0, 0.0, 2.0, 4.0, 4.0], dtype=torch.float64).view(5, 1, 1, 1)  # mean 2, unbiased variance 4
    norm(x, update=0)
    assert_same(norm.running_mean.item(), 0.002, dtype=torch.float64)
    assert_same(norm.running_var.item(), 1.003, dtype=torch.float64)


def test_batchnorm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(4, momentum=0.001).double(), nn.BatchNorm2d(4, eps=1e-3, momentum=0.001).double()
    for _ in range(3):
        x = torch.randn(6, 4, 5, 5, dtype=torch.float64) * 3 + 1
        assert_same(ours(x, update=0), theirs(x))
    ours.eval()
    theirs.eval()
    assert_same(ours(x), theirs(x))
    assert_same(ours.running_var, theirs.running_var)


def test_without_an_updating_group_the_batch_normalises_and_nothing_moves() -> None:
    torch.manual_seed(0)
    model = build_model("wrn-10-1", 10, bn_momentum=0.1).double()
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    before = running(model)
    still = model(x)
    assert all(torch.equal(a, b) for a, b in zip(before, running(model), strict=True))
    moving = model(x, update=0)
    assert_same(still, moving)
    assert not any(torch.equal(a, b) for a, b in zip(before, running(model), strict=True))
    statistics = model(x, running=True)
    assert not torch.allclose(statistics, moving)
    assert_same(model.eval()(x), statistics)


FORMS = ["separately", "jointly", "compiled"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("groups", "update"), [(3, 0), (3, 2), (2, None)])
def test_groups_are_what_separate_passes_give(form: str, groups: int, update: int | None) -> None:
    """Logits, gradients and running statistics, in float64, against one forward pass a group."""
    torch.manual_seed(0)
    plain = build_model("wrn-10-1", 5, bn_momentum=0.1).double()
    model = copy.deepcopy(plain)
    model.joint = form != "separately"
    call = torch.compile(model, backend="eager", fullgraph=True) if form == "compiled" else model
    rows = torch.randn(4 * groups, 3, 8, 8, dtype=torch.float64)
    rows[4:] *= 3  # groups that differ
    expected = torch.cat([plain(x, update=0 if i == update else None) for i, x in enumerate(rows.chunk(groups))])
    logits = call(rows, groups, update)
    assert_same(logits, expected)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (logits * weight).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert_same(ours.grad, theirs.grad, name)
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        assert_same(ours, theirs)
    moved = not torch.equal(model.blocks[0].bn1.running_mean, torch.zeros(16, dtype=torch.float64))
    assert moved == (update is not None)


def test_the_rotation_head_changes_no_other_weight() -> None:
    torch.manual_seed(0)
    plain = build_model("wrn-10-1", 5)
    torch.manual_seed(0)
    model = build_model("wrn-10-1", 5, heads=[Head("rotation", lambda k, d: [4])])
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(model(x), plain(x))
    assert model(x, heads=["rotation"])["rotation"].shape == (4, 4)
    assert len(kernels(model)) == len(kernels(plain)) + 1, "its kernel decays too"


def test_scale_of_the_input_is_normalised_away() -> None:
    torch.manual_seed(0)
    norm = BatchNorm(3, momentum=0.1).double()
    x = torch.randn(64, 3, 4, 4, dtype=torch.float64)
    y = norm(x)
    # y = x / √(σ² + ε): twice the scale has a quarter of the ε, which weighs 3/8 · ε / σ² less, and σ² is near 1
    assert (norm(2 * x) - y).abs().max() < 1e-3 * 3 / 8 * 1.2 * y.abs().max()


def test_autocast_keeps_statistics_and_logits_in_float32() -> None:
    torch.manual_seed(0)
    model = build_model("wrn-10-1", 10, bn_momentum=0.1)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(16, 3, 8, 8).to(memory_format=torch.channels_last)
    exact = model(x, update=0)
    statistics = running(model)
    model.load_state_dict({**model.state_dict(), **fresh(model)})
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x, update=0)
    assert logits.dtype == torch.float32
    in_bf16 = 30  # roundings of ten layers: their inputs, weights and sums
    assert_same(logits, exact, roundings=in_bf16, dtype=torch.bfloat16)
    for low, high in zip(model.buffers(), statistics, strict=True):
        assert low.dtype == torch.float32
        assert_same(low, high, roundings=in_bf16, dtype=torch.bfloat16)


def fresh(model: nn.Module) -> dict[str, Tensor]:
    """BatchNorm's running statistics before any update."""
    return {name: torch.full_like(buffer, float(name.endswith("var"))) for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("size", [(2, 2), (3, 32), (32, 3)])
def test_images_of_fewer_than_four_pixels_a_side_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"{size[1]}×{size[0]} pixels are too small"):
        build_model("wrn-10-1", 2).check(64, size)


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-13-1"])
@pytest.mark.parametrize("size", [(4, 4), (4, 5), (8, 8), (8, 9)])
def test_a_batch_that_leaves_one_value_a_channel_is_refused(name: str, size: tuple[int, int]) -> None:
    """Its variance is none: BatchNorm raises, and pooled with other groups' it would be 0 × ∞."""
    model = build_model(name, 2)
    for batch in (1, 2):
        rows = torch.rand(batch, 3, *size)
        if batch == 1 and -(-max(size) // 2 ** (len(model.blocks) - 1)) == 1:
            with pytest.raises(UsageError, match="'batch=1' is too small"):
                model.check(batch, size)
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                model(rows, 1, 0)
            continue
        model.check(batch, size)
        assert torch.isfinite(model(rows, 1, 0)).all()
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
