"""The contract: options, methods of other packages, heads, and a toy method that uses everything at once."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from method_batches import SIZES, Watched, make_batch, make_learner
from rounding import assert_same
from torch import Tensor

from networks.build import build_model
from networks.network import kernels
from stores.errors import UsageError
from trainer import config, methods
from trainer.contract import STRONG, WEAK, Batch, Head, Learner, Losses, Method, Predictor, Sizes, Views, option
from trainer.functional import ops
from trainer.methods import list_methods, load_method, register_method
from trainer.runs import checkpoint

# --- settings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    share: float = option(None, "a share", min=0, below=1, from_store="gamma")
    rate: float = option(0.1, "a rate", above=0, max=2)


def test_an_option_is_a_field_with_its_limits() -> None:
    share, rate = dataclasses.fields(Settings)
    assert dict(share.metadata) == {"help": "a share", "min": 0, "below": 1, "from_store": "gamma"}
    assert dict(rate.metadata) == {"help": "a rate", "above": 0, "max": 2}
    assert (share.default, rate.default) == (None, 0.1)
    config.check(Settings())
    for wrong in ({"share": 1.0}, {"share": -0.1}, {"rate": 0.0}, {"rate": 2.1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            config.check(Settings(**wrong))


# --- methods of other packages --------------------------------------------------------------------------------------

PACKAGE = '''
"""A method outside the package."""
from dataclasses import dataclass
from trainer.contract import Losses, option
from trainer.functional import ops

NAME = "outside"
SUMMARY = "plain cross-entropy"

@dataclass(frozen=True)
class Settings:
    weight: float = option(1.0, "of the loss", above=0)

def loss(learner, batch, settings):
    logits = learner.model(batch.x, update=0)
    loss_x = settings.weight * ops.cross_entropy(logits, ops.one_hot(batch.y, logits.shape[1])).mean()
    return Losses(loss_x, {"loss_x": loss_x})
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a method, on the path; whatever is registered is forgotten afterwards."""
    monkeypatch.setattr(methods, "LOADED", dict(methods.LOADED))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outside_package").mkdir()
    (tmp_path / "outside_package/__init__.py").write_text("")
    (tmp_path / "outside_package/method.py").write_text(textwrap.dedent(PACKAGE))
    yield tmp_path
    for name in ("outside_package", "outside_package.method"):
        sys.modules.pop(name, None)


def entry_point(folder: Path, line: str) -> None:
    info = folder / "outside_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[realmix.methods]\n{line}\n")


def test_an_entry_point_is_found_by_its_name(installed: Path, command: Any, tiny: Path, tmp_path: Path) -> None:
    entry_point(installed, "outside = outside_package.method")
    assert list_methods()[-1] == "outside"
    assert "outside_package" not in sys.modules, "naming the methods imports none"
    code, out, _ = command("methods", "outside")
    assert (code, "plain cross-entropy" in out, "of the loss" in out) == (0, True, True)
    words = ["--store", tiny.with_name("tiny_20"), "--method", "outside", "--runs", tmp_path, "--name", "run"]
    words += ["--model", "wrn-10-1", "--steps", 2, "--batch", 4, "--device", "cpu", "--quiet"]
    assert command(*words, "--set", "weight=2", "--set", "tensorboard=false")[0] == 0
    code, _, err = command(*words, "--set", "weight=0")
    assert (code, "'weight' must be above 0" in err) == (2, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("outside = outside_package.missing", "outside_package.missing"),
        ("other = outside_package.method", "calls itself 'outside'"),
        ("outside = outside_package", "does not define NAME"),
    ],
)
def test_an_entry_point_that_does_not_work_is_one_error(installed: Path, line: str, words: str) -> None:
    entry_point(installed, line)
    with pytest.raises(UsageError) as caught:
        load_method(line.split(" ")[0])
    assert words in str(caught.value)


def test_registering_a_method(installed: Path) -> None:
    import outside_package.method as module

    method = register_method(module)
    assert load_method("outside") is method
    assert "outside" in list_methods()
    assert method.views(method.Settings()).unlabeled == ()
    assert method.draw(None, None, None) == method.schedule(0, 1, 2, None) == method.init_state(None, None) == {}
    assert method.hook_every(100, None) is None
    again = register_method(module)  # a notebook's cell may run twice
    assert load_method("outside") is again
    with pytest.raises(UsageError, match="already is a method 'realmix'"):
        register_method(SimpleNamespace(**{**vars(module), "NAME": "realmix"}))
    with pytest.raises(UsageError, match="does not define loss"):
        register_method(SimpleNamespace(NAME="x", SUMMARY="x", Settings=Settings))


def test_a_misspelt_method_of_another_package(installed: Path) -> None:
    entry_point(installed, "outside = outside_package.method")
    with pytest.raises(UsageError, match="did you mean outside"):
        load_method("outsid")


# --- heads ----------------------------------------------------------------------------------------------------------

OVA = Head("ova", lambda classes, features: [2 * classes], bias=False)
PROJ = Head("proj", lambda classes, features: [features, 128], init="torch")
OPEN = Head("open", lambda classes, features: [classes + 1], bias=False, on="proj")


def test_heads_are_what_was_declared() -> None:
    """Parameters beyond those of a plain network at D = 128, K = 6 (OpenMatch; IOMatch: 33,024 + 256K + 129(K+1))."""
    multi = Head("mb", lambda classes, features: [2 * classes], bias=False, on="proj")
    iomatch_open = dataclasses.replace(OPEN, bias=True)
    detector = Head("detector", lambda classes, features: [1024, 1024, 2 * classes])

    def extra(*heads: Head) -> int:
        sizes = [sum(p.numel() for p in build_model("wrn-10-2", 6, heads=with_).parameters()) for with_ in (heads, ())]
        return sizes[0] - sizes[1]

    assert extra(OVA) == 256 * 6
    assert extra(PROJ, multi, iomatch_open) == 33_024 + 256 * 6 + 129 * 7
    assert extra(detector) == 1_193_996


def test_initialisation() -> None:
    model = build_model("wrn-10-8", 10, heads=[OVA, PROJ, Head("biased", lambda k, d: [k])])
    ova = model.get_submodule("ova").weight
    assert ova.std().item() == pytest.approx((2 / (512 + 20)) ** 0.5, rel=0.05)
    first = model.get_submodule("proj.0")
    assert first.weight.abs().max() <= 512**-0.5, "torch's own is uniform"
    assert first.bias.any()
    assert not model.get_submodule("biased").bias.any()
    assert len(kernels(model)) == len(kernels(build_model("wrn-10-8", 10))) + 4, "their kernels decay too"


@pytest.mark.parametrize("name", ["head", "blocks", "features", "classes", "forward"])
def test_a_head_cannot_hide_a_part_of_the_network(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        build_model("wrn-10-1", 3, heads=[Head(name, lambda k, d: [k])])


@pytest.mark.parametrize("groups", [1, 3])
def test_every_output_comes_from_one_pass(groups: int) -> None:
    model = build_model("wrn-10-1", 3, 0.1, [OVA, PROJ, OPEN]).double()
    x, names = torch.randn(6, 3, 8, 8, dtype=torch.float64), ("open", "features", "classes", "ova")
    seen: list[int] = []
    model.stem.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        plain = model(x, groups)
        passes = len(seen)
        out = model(x, groups, heads=names)
    assert list(out) == list(names)
    assert len(seen) == 2 * passes, "the backbone runs as often as for the classes alone"
    assert_same(out["classes"], plain)
    assert_same(out["classes"], model.head(out["features"]))
    assert_same(out["ova"], model.get_submodule("ova")(out["features"]))
    assert_same(out["open"], model.get_submodule("open")(model.get_submodule("proj")(out["features"])))


def test_outputs_are_one_graph_for_the_compiler() -> None:
    model = build_model("wrn-10-1", 3, 0.1, [OVA, PROJ, OPEN]).double()
    other = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    ours, theirs = (net(x, 2, heads=("features", "ova", "open")) for net in (other, model))
    for name in theirs:
        assert_same(ours[name], theirs[name], name)


# --- a method that uses everything at once --------------------------------------------------------------------------


class Toy:
    """Counts how often each image was seen; trains heads; keeps in its second stream what its hook likes."""

    NAME, SUMMARY = "toy", "everything that a method can ask for"

    @dataclass(frozen=True)
    class Settings:
        every: int = option(2, "steps between two hooks", min=1)

    @staticmethod
    def views(settings: Any) -> Views:
        return Views(
            labeled=WEAK * 2,
            unlabeled=WEAK + STRONG,
            second=WEAK,
            policy="randaugment",
            ratio=2,
            teacher=True,
            labeled_in_unlabeled=True,
            heads=(OVA, PROJ, OPEN),
        )

    @staticmethod
    def init_state(sizes: Sizes, settings: Any) -> dict[str, Tensor]:
        n = sizes.num_unlabeled
        return {
            "count": torch.zeros(n, dtype=torch.int64),
            "score": torch.zeros(n),
            "hooks": torch.zeros(()),
            "second": torch.ones(n, dtype=torch.bool),
            "outside": torch.zeros(()),
        }

    @staticmethod
    def loss(learner: Learner, batch: Batch, settings: Any) -> Losses:
        state, rows = learner.state, [batch.x, *batch.more_x, *batch.u, *batch.second]
        outputs = learner.model(torch.cat(rows), update=0, heads=("classes", "ova", "open", "features"))
        with torch.no_grad():
            taught = ops.softmax(learner.teacher(batch.u[0], running=True))
            state["count"].index_add_(0, batch.u_id, torch.ones_like(batch.u_id))
            state["outside"] += (~state["second"][batch.second_id]).sum()
        z = outputs["classes"].split([len(part) for part in rows])
        loss_x = ops.cross_entropy(z[0], ops.one_hot(batch.y, z[0].shape[1])).mean()
        loss_u = ops.squared_error(z[3], taught).mean() + 0.01 * sum(
            outputs[name].square().mean() for name in ("ova", "open", "features")
        )
        return Losses(loss_x + loss_u, {"loss_x": loss_x, "loss_u": loss_u, "outside": state["outside"].clone()})

    @staticmethod
    def hook_every(steps: int, settings: Any) -> int:
        return settings.every

    @staticmethod
    def hook(predictor: Predictor, state: dict[str, Tensor], settings: Any) -> None:
        out = ops.concatenate(predictor.unlabeled("ova", "classes"))
        state["score"].copy_(out["ova"][:, 0])
        state["second"].copy_(out["ova"][:, 0] >= out["ova"][:, 0].median())
        state["hooks"].copy_(torch.tensor(float(predictor.step)))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Method:
    monkeypatch.setattr(methods, "LOADED", dict(methods.LOADED))
    return register_method(Toy)


def toy_batch() -> tuple[Batch, Any]:
    settings = Toy.Settings()
    return make_batch(Toy, settings), settings


def test_every_head_is_trained_in_one_pass_and_the_state_follows_the_ids(toy: Method) -> None:
    learner = make_learner(toy, Toy.Settings())
    batch, settings = toy_batch()
    model = learner.model
    watched = learner.model = Watched(model)
    toy.loss(learner, batch, settings).total.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    (call,) = watched.calls
    assert (call.groups, call.update, len(call.rows)) == (1, 0, 2 * 6 + 3 * 12)
    assert torch.equal(learner.state["count"], torch.bincount(batch.u_id, minlength=SIZES.num_unlabeled))


def test_it_is_one_graph(toy: Method) -> None:
    learner, other = (make_learner(toy, Toy.Settings()) for _ in range(2))
    batch, settings = toy_batch()
    compiled = torch.compile(toy.loss, backend="eager", fullgraph=True)
    for _ in range(2):
        ours, theirs = compiled(other, batch, settings), toy.loss(learner, batch, settings)
        assert_same(ours.total, theirs.total)
    for name, tensor in learner.state.items():
        assert torch.equal(other.state[name], tensor), name


def train_toy(command: Any, tiny: Path, runs: Path, name: str, *words: str) -> Path:
    given = ["--store", tiny.with_name("tiny_20"), "--method", "toy", "--runs", runs, "--name", name, "--steps", 8]
    given += ["--model", "wrn-10-1", "--batch", 4, "--device", "cpu", "--threads", 1, "--quiet"]
    settings = ["precision=fp32", "tensorboard=false", "log_every=1", "checkpoint_every=3", "eval_every=8"]
    given += [word for setting in settings for word in ("--set", setting)]
    code, _, err = command(*given, *words)
    assert code == 0, err
    return runs / name


def saved(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_run_and_its_continuation(
    toy: Method, command: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Saved after three steps, between two hooks: what follows is the same to the bit."""
    compile_, save = torch.compile, checkpoint.save
    monkeypatch.setattr(torch, "compile", lambda what, **how: compile_(what, backend="eager", **how))

    def save_and_copy(folder: Path, state: Any, identity: Any) -> None:
        save(folder, state, identity)
        if state.step == 3 and not (tmp_path / "half").exists():
            shutil.copytree(folder, tmp_path / "half")

    monkeypatch.setattr(checkpoint, "save", save_and_copy)
    whole = train_toy(command, tiny, tmp_path, "whole", "--engine", engine)
    assert saved(tmp_path / "half")["step"] == 3
    code, _, err = command("--resume", tmp_path / "half", "--quiet")
    assert code == 0, err
    ours, theirs = saved(tmp_path / "half"), saved(whole)
    for part in ("model", "ema", "method"):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in theirs[part].items():
            assert torch.equal(ours[part][name], tensor), name
    state = theirs["method"]
    assert state["hooks"] == 8
    assert state["count"].sum() == 8 * 8, "each row of each step was counted"
    assert 0 < state["second"].float().mean() < 0.7
    assert state["outside"] == 0, "the second stream had images of its array alone"
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if line["kind"] == "train"]) == 8
