"""Fine-tuning: rates of layers, what a loaded network starts with, and whole runs of it from a file of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from test_resume import assert_equal
from torch import nn

from networks.build import build_model
from networks.layers.batch_norm import ConvertedBatchNorm
from networks.pretrained import load_backbone
from stores import open_store
from stores.errors import IntegrityError, Interrupted, StoreError, UsageError
from trainer import api, config
from trainer.config import RunConfig
from trainer.functional import schedules
from trainer.inference import onnx_graph
from trainer.inference.export import export
from trainer.inference.model import load_model
from trainer.loop import optimizer, prepare
from trainer.methods import METHODS, load_method
from trainer.runs import checkpoint, weights
from trainer.runs.run_dir import open_run

MODEL = "timm:test_resnet"  # 0.4 M parameters
SETTINGS = ["tensorboard=false", "log_every=2", "precision=fp32"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    torch.manual_seed(5)
    net = timm.create_model("test_resnet")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def split(tiny) -> Path:
    return tiny.with_name("tiny_20")


def start(split: Path, runs: Path, file: Path, name: str = "run", more: Any = (), **flags: Any) -> Path:
    given = {"store": str(split), "model": MODEL, "weights": str(file), "input_size": 32, "batch": 4, "steps": 3}
    given |= {"threads": 1, "device": "cpu", "engine": "eager"} | flags
    return api.train([*SETTINGS, *more], given, runs, name, quiet=True)[0]


# --- rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_layers_learn_at_their_own_rates(kind: str) -> None:
    """One step from the same gradient: Adam moves each weight by its rate, SGD by its rate times the gradient."""
    model = build_model("timm:test_vit", 3, size=32).double()
    asked = {"backbone_lr": 0.5, "layer_decay": 0.7, "weight_decay": 0.0, "momentum": 0.0, "lr": 0.01}
    run = RunConfig(optimizer=kind, **asked)  # type: ignore[arg-type]
    adam, groups, built = kind == "adam", optimizer.groups_of(model, run), optimizer.build_optimizer(model, run)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.update(built, groups, torch.tensor(0.01), torch.tensor(1.0), adam)
    layers, top = model.layers(), 7
    for name, parameter in model.named_parameters():
        share = 1.0 if name.startswith("head.") else 0.5 * 0.7 ** (top - layers[name])
        expected = 0.01 * share * (1 if adam else 2)
        moved = before[name] - parameter.detach()
        torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-4, atol=1e-9)


def test_the_heads_come_first() -> None:
    model = build_model("wrn-10-1", 3).double()
    run = RunConfig(head_first=2, weight_decay=0.5, lr=0.1)
    groups, built = optimizer.groups_of(model, run), optimizer.build_optimizer(model, run)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.update(built, groups, torch.tensor(0.1), torch.tensor(0.0), True)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not name.startswith("head.")), name


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_loaded_kernel_shrinks_no_more_than_said(kind: str) -> None:
    run = RunConfig(optimizer=kind, lr=0.1, weight_decay=0.5, backbone_lr=0.2, largest_decay=1e-4)  # type: ignore[arg-type]
    groups = optimizer.groups_of(build_model("wrn-10-1", 3), run)
    below, heads = groups[0], groups[-1]
    assert below.below
    assert below.decay * 0.1 * below.share == pytest.approx(1e-4)
    assert heads.decay == 0.5


def test_without_such_settings_there_is_one_group_as_before() -> None:
    model = build_model("wrn-10-1", 3)
    assert len(optimizer.build_optimizer(model, RunConfig()).param_groups) == 1
    assert len(optimizer.build_optimizer(model, RunConfig(optimizer="sgd")).param_groups) == 2


def test_warm_up() -> None:
    rates = [schedules.learning_rate("constant", 0.1, step, 10, warmup=4) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


# --- before the first step ------------------------------------------------------------------------------------------


def test_adapted_statistics_are_the_means_over_the_batches() -> None:
    """Against torch's own cumulative average, momentum=None, in a net of one BatchNorm."""
    model = build_model(MODEL, 3, size=32, frozen=True).double()
    batches = [torch.rand(4, 3, 32, 32, dtype=torch.float64) * (i + 1) / 3 for i in range(3)]
    norm = next(module for module in model.modules() if isinstance(module, ConvertedBatchNorm))
    inputs: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, given: inputs.append(given[0].detach()))
    with torch.no_grad():
        prepare.adapt(model, iter(batches))
    theirs = nn.BatchNorm2d(len(norm.weight), momentum=None).double()
    for x in inputs:
        theirs(x)
    torch.testing.assert_close(norm.running_mean, theirs.running_mean)
    torch.testing.assert_close(norm.running_var, theirs.running_var)
    assert model.frozen
    assert norm.momentum == 0.001


def test_an_imprinted_classifier_knows_the_labelled_images() -> None:
    torch.manual_seed(0)
    model = build_model(MODEL, 4, size=32).eval()
    images, labels = torch.rand(6, 3, 32, 32) * 2 - 1, torch.tensor([0, 1, 3, 0, 1, 3])
    images[3:] = images[:3]
    with torch.no_grad():
        prepare.imprint(model, iter(images.split(2)), labels)
        logits = model(images)
        features = model(images, heads=["features"])["features"]
    assert torch.equal(logits.argmax(1), labels)
    assert not model.head.weight[2].any(), "no labelled image, no opinion"
    center = features[:3].mean(0)
    cosine = nn.functional.cosine_similarity(features[0] - center, features[1] - center, dim=0)
    radius = (features - center).norm(dim=1)
    expected = 10 * radius[0] / radius.mean() * torch.stack([torch.tensor(1.0), cosine])
    torch.testing.assert_close(logits[0, :2], expected, rtol=1e-3, atol=1e-3)


# --- settings -------------------------------------------------------------------------------------------------------


def resolved(split: Path, *assignments: str, method: str = "mixmatch", **flags: Any) -> Any:
    chosen = load_method(method)
    run, settings = config.build(chosen, None, assignments, {"store": str(split), "method": method} | flags)
    return config.resolve(run, settings, open_store(split))[0]


def test_fine_tuning_has_its_own_defaults(split: Path) -> None:
    run = resolved(split, model=MODEL)
    assert (run.weights, run.lr_schedule, run.backbone_lr, run.head) == ("pretrained", "cosine", 0.1, "imprinted")
    assert run.lr == 1e-3
    assert run.input_size == 96, "of images of 12 pixels"
    assert (run.bn_momentum, run.ema_decay) == (0.01, 0.999)
    short = resolved(split, "optim.lr=0.5", model=MODEL, steps=1000)
    assert (short.bn_momentum, short.ema_decay, short.lr) == (0.1, 0.99, 0.5)
    assert resolved(split, model=MODEL, method="fixmatch").lr == 0.003
    scratch = resolved(split, model=MODEL, weights="none")
    assert (scratch.lr, scratch.backbone_lr, scratch.head) == (0.002, 1.0, "random")
    plain = resolved(split)
    assert (plain.weights, plain.input_size, plain.backbone_lr, plain.largest_decay) == (None, None, 1.0, None)


@pytest.mark.parametrize("flags", [{"weights": "none"}, {"input_size": 96}])
def test_settings_of_backbones_are_refused_for_others(split: Path, flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is of a pretrained network"):
        resolved(split, model="wrn-10-1", **flags)


def test_a_checkpoint_of_before_these_settings_is_that_of_the_same_run(split: Path, tmp_path: Path) -> None:
    flags = {"store": str(split), "model": "wrn-10-1", "steps": 1, "threads": 1}
    path, _ = api.train(SETTINGS, flags, tmp_path, "run", quiet=True)
    identity = checkpoint.identity(open_run(path).config)
    before = {name: value for name, value in identity["run"].items() if name not in ("bn", "layer_decay", "weights")}
    assert checkpoint.read_own(path, identity | {"run": before})["step"] == 1
    with pytest.raises(StoreError, match="another run"):
        checkpoint.read_own(path, identity | {"run": before | {"layer_decay": 0.5}})


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_its_steps(method: str, file: Path, split: Path, tmp_path: Path) -> None:
    path = start(split, tmp_path, file, method=method, steps=1, batch=8, more=["bn=grouped"])
    assert json.loads((path / "result.json").read_text())["steps"] == 1


@pytest.mark.parametrize("bn", ["frozen", "adapted"])
def test_statistics_stay_what_they_were_before_the_first_step(
    bn: str, file: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = start(split, tmp_path, file, method="mixmatch", more=[f"bn={bn}"])
    trained = safetensors.torch.load_file(path / weights.FILE)
    loaded = safetensors.torch.load_file(file)
    names = [name for name in loaded if name.endswith("running_mean")]
    same = [torch.equal(trained[f"backbone.net.{name}"], loaded[name]) for name in names]
    assert names
    assert all(same) if bn == "frozen" else not any(same)
    assert not torch.equal(trained["backbone.net.conv1.0.weight"], loaded["conv1.0.weight"]), "and weights are trained"


def test_a_run_that_is_cut_goes_on_to_the_same_bytes_without_the_file(
    file: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(file.read_bytes())
    more = ["layer_decay=0.7", "warmup=2", "head_first=1", "bn=adapted", "rampup_steps=2"]
    options = {"method": "mixmatch", "steps": 6, "checkpoint_every": 2, "more": more}
    whole = start(split, tmp_path / "whole", mine, **options)
    save, saved = checkpoint.save, iter(range(10))

    def interrupt(*arguments: Any) -> None:
        save(*arguments)
        if next(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", interrupt)
    with pytest.raises(Interrupted):
        start(split, tmp_path / "cut", mine, **options)
    monkeypatch.undo()
    mine.unlink()
    path, result = api.resume(tmp_path / "cut" / "run", quiet=True)
    assert result["steps"] == 6
    assert_equal(path, whole)


@pytest.fixture(scope="module")
def trained(file: Path, split: Path, tmp_path_factory) -> Path:
    return start(split, tmp_path_factory.mktemp("trained"), file, method="supervised", more=["bn=grouped"])


def test_the_record_names_the_weights(trained: Path, file: Path) -> None:
    record = open_run(trained).config
    assert record["run"]["weights"] == str(file)
    assert record["backbone"]["name"] == MODEL
    assert len(record["backbone"]["sha256"]) == 64
    assert record["backbone"]["size"] == 32
    assert record["backbone"]["std"] == [0.5, 0.5, 0.5]


def test_predictions_need_nothing_but_the_run_and_an_export_says_the_same(trained: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    said = load_model(trained).predict(images).probabilities
    written = export(open_run(trained), tmp_path / "out", onnx=True)  # its graph is checked against the network
    names = ["model.safetensors", "foreign.safetensors", "model.onnx", "README.md"]
    assert [path.name for path in written] == names
    np.testing.assert_allclose(load_model(tmp_path / "out").predict(images).probabilities, said)
    assert "starts from a pretrained network, SHA-256" in (tmp_path / "out" / "README.md").read_text()


def test_the_graph_of_a_transformer_says_the_same() -> None:
    """ResNet and MobileNet are exported elsewhere."""
    torch.manual_seed(0)
    name = "timm:test_vit"
    model = build_model(name, 3, size=32).eval().requires_grad_(False)
    trained = weights.Trained(model, name, ["a", "b", "c"], (12, 12), input_size=32)
    onnx_graph.check(onnx_graph.graph(trained), trained)


def test_another_run_goes_on_from_it(trained: Path, split: Path, tmp_path: Path, file: Path) -> None:
    path = start(split, tmp_path, file, method="mixmatch", weights=None, init=str(trained), steps=1)
    record = open_run(path).config
    assert record["run"]["weights"] == "none"
    assert record["init"]["path"] == str(trained / weights.FILE)
    assert record["run"]["backbone_lr"] == 0.1


def test_a_run_is_a_file_of_weights_too(trained: Path, split: Path) -> None:
    """What was fine-tuned embeds images."""
    backbone = load_backbone(MODEL, str(trained / weights.FILE), 32).eval()
    images = torch.rand(2, 3, 12, 12) * 2 - 1
    with torch.no_grad():
        expected = weights.load(trained).model(images, heads=["features"])["features"]
        torch.testing.assert_close(backbone(images), expected)


def test_wrong_weights_leave_nothing_behind(split: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    safetensors.torch.save_file(timm.create_model("test_convnext").state_dict(), wrong)
    with pytest.raises(UsageError, match="holds no weights of timm:test_resnet"):
        start(split, tmp_path / "runs", wrong)
    with pytest.raises(StoreError, match="does not exist"):
        start(split, tmp_path / "runs", tmp_path / "absent.pth")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"model": "timm:test_convnext"}, IntegrityError),
        ({"model": "timm:no_such_net"}, StoreError),
        ({"model": "timm:../../x"}, StoreError),
        ({"input_size": "1e9"}, StoreError),
        ({"input_size": "99999"}, StoreError),
    ],
)
def test_files_that_lie_about_their_network_are_refused(
    trained: Path, tmp_path: Path, metadata: dict[str, str], error: type[Exception]
) -> None:
    content = weights.read(trained / weights.FILE)
    changed = {**content.metadata, **metadata}
    changed.pop("sha256")
    safetensors.torch.save_file(content.tensors, tmp_path / "m.safetensors", changed)
    with pytest.raises(error):
        weights.load(tmp_path / "m.safetensors")
