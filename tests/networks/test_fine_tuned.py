"""timm's and torchvision's networks as the trainer trains them: groups of rows, heads, layers, what draws nothing."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from networks.build import build_model
from networks.head import Head
from networks.layers.batch_norm import ConvertedBatchNorm, Rows, convert
from networks.network import kernels
from networks.pretrained import Pretrained
from stores.errors import UsageError

NETS = ["timm:test_resnet", "timm:test_efficientnet", "timm:test_byobnet", "torchvision:mobilenet_v3_small"]
LAYER_NORM = ["timm:test_convnext", "timm:test_vit"]


def built(name: str, **options) -> Pretrained:
    torch.manual_seed(0)
    network = build_model(name, 5, 0.1, options.pop("heads", ()), size=32, **options)
    assert isinstance(network, Pretrained)
    return network.double()


def close(ours, theirs, name=""):
    scale = theirs.abs().max().clamp(min=1e-3)
    assert (ours - theirs).abs().max() <= 1e-8 * scale, name


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, form) for name in (*NETS[:2], LAYER_NORM[1]) for form in ("separately", "jointly")),
        (NETS[0], "compiled"),
    ],
)
def test_groups_are_what_separate_passes_give(name: str, form: str) -> None:
    """Logits, gradients and running statistics, in float64, against one forward pass a group."""
    plain = built(name)
    model = copy.deepcopy(plain)
    model.joint = form != "separately"
    call = torch.compile(model, backend="eager", fullgraph=True) if form == "compiled" else model
    rows = torch.rand(12, 3, 32, 32, dtype=torch.float64) * 2 - 1
    rows[4:8] *= 0.3  # groups that differ
    expected = torch.cat([plain(x, update=0 if i == 1 else None) for i, x in enumerate(rows.chunk(3))])
    logits = call(rows, 3, 1)
    close(logits, expected)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (logits * weight).sum().backward()
    for (key, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        close(ours.grad, theirs.grad, key)
    for (key, ours), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
        close(ours, theirs, key)


@pytest.mark.parametrize("name", NETS)
def test_one_group_in_training_is_timms_and_torchvisions_own_pass(name: str) -> None:
    ours = built(name)
    theirs = copy.deepcopy(ours.backbone.net)
    for module in list(theirs.modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, ConvertedBatchNorm):
                norm = nn.BatchNorm2d(child.weight.numel(), child.eps, 0.1).double()
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(module, key, nn.Sequential(norm, child.after))
    backbone, x = ours.backbone, torch.rand(4, 3, 32, 32, dtype=torch.float64)
    backbone.preprocessing["crop"] = 1.0
    features = ours(x, update=0, heads=["features"])["features"]
    close(features, theirs(x * backbone.scale + backbone.shift))
    still = ours(x)
    before = [buffer.clone() for buffer in ours.buffers()]
    close(ours(x), still)
    assert all(map(torch.equal, before, ours.buffers())), "without an updating group nothing moves"


@pytest.mark.parametrize("name", [NETS[0], NETS[1]])
def test_frozen_statistics_are_those_of_evaluation_and_gamma_and_beta_are_trained(name: str) -> None:
    model = built(name, frozen=True)
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    before = [buffer.clone() for buffer in model.buffers()]
    logits = model(x, 2, update=0)
    close(logits, copy.deepcopy(model).eval()(x))
    assert all(map(torch.equal, before, model.buffers()))
    logits.square().sum().backward()
    norms = [module for module in model.modules() if isinstance(module, ConvertedBatchNorm)]
    assert norms
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)


@pytest.mark.parametrize("name", LAYER_NORM)
def test_networks_without_batchnorm_have_nothing_to_convert(name: str) -> None:
    model = built(name)
    assert not model.has_batch_norm
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    close(model(x, 2, 0), model.eval()(x))
    model.check(1, (32, 32))


@pytest.mark.parametrize("name", [*NETS, *LAYER_NORM])
def test_conversion_keeps_names_and_epsilon(name: str) -> None:
    source, own = name.split(":")
    theirs = timm.create_model(own, num_classes=0) if source == "timm" else None
    model = built(name)
    if theirs is not None:
        names = {key for key in theirs.state_dict() if not key.endswith("num_batches_tracked")}
        assert set(model.backbone.net.state_dict()) == names
        eps = [module.eps for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
        assert [m.eps for m in model.modules() if isinstance(m, ConvertedBatchNorm)] == eps
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "torchvision:convnext_tiny"])
def test_nothing_draws_in_training(name: str) -> None:
    """Dropout and stochastic depth would make a resumed run another one."""
    model = build_model(name, 3, 0.1, size=32)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), model(x))


def test_heads_share_one_pass_and_their_kernels_decay() -> None:
    heads = [Head("rotation", lambda k, d: [4]), Head("proj", lambda k, d: [d, 8], init="torch")]
    model, plain = built(NETS[0], heads=heads), built(NETS[0])
    out = model(torch.rand(2, 3, 32, 32, dtype=torch.float64), heads=("classes", "features", "rotation", "proj"))
    assert {key: value.shape[1] for key, value in out.items()} == {
        "classes": 5,
        "features": 96,
        "rotation": 4,
        "proj": 8,
    }
    assert len(kernels(model)) == len(kernels(plain)) + 3


@pytest.mark.parametrize("name", [*NETS, *LAYER_NORM, "wrn-16-2"])
def test_layers_count_from_the_stem_and_cover_all_below_the_heads(name: str) -> None:
    model = build_model(name, 3, size=32 if ":" in name else None)
    layers = model.layers()
    below = [key for key, _ in model.named_parameters() if not key.startswith("head.")]
    assert list(layers) == below
    assert set(layers.values()) == set(range(max(layers.values()) + 1))
    assert layers[below[0]] == 0
    assert layers[below[-1]] == max(layers.values())


def test_a_vits_layers_are_those_of_the_papers() -> None:
    """0 embeddings, then the blocks, the last norm with the last block."""
    layers = built("timm:test_vit").layers()
    name = "backbone.net."
    assert layers[name + "pos_embed"] == layers[name + "patch_embed.proj.weight"] == 0
    assert layers[name + "blocks.0.norm1.weight"] == 1
    assert layers[name + "norm.weight"] == layers[name + "blocks.5.mlp.fc2.bias"] == 6


def test_a_batch_of_one_and_a_norm_of_another_kind_are_refused() -> None:
    model = built(NETS[0])
    with pytest.raises(UsageError, match="'batch=1' is too small"):
        model.check(1, (32, 32))
    with pytest.raises(UsageError, match="'SyncBatchNorm' cannot normalise groups"):
        convert(nn.Sequential(nn.SyncBatchNorm(3)), 0.1, Rows())
    with pytest.raises(UsageError, match="unknown model 'resnet50'"):
        build_model("resnet50", 3)
