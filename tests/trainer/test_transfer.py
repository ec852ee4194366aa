"""Transfer: what is taken over from a run or a file, with the classifier of the same classes; mistakes are named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_resume import SETTINGS, assert_equal
from torch import Tensor

from networks.build import build_model
from networks.network import Network
from stores import open_store
from stores.errors import IntegrityError, Interrupted, StoreError, UsageError
from trainer import api
from trainer.config import RunConfig
from trainer.contract import Head
from trainer.runs import checkpoint, transfer, weights


@pytest.fixture(scope="module")
def split(tiny):
    return tiny.with_name("tiny_20")


def start(split: Path, runs: Path, name: str, **flags: Any) -> Path:
    given = {"store": str(split), "model": "wrn-10-1", "steps": 4, "threads": 1, "device": "cpu"} | flags
    return api.train(SETTINGS, given, runs, name, quiet=True)[0]


@pytest.fixture(scope="module")
def trained(split, tmp_path_factory) -> Path:
    """A finished run with statistics and averages of its own."""
    return start(split, tmp_path_factory.mktemp("trained"), "trained", seed=7, method="supervised")


def network(classes: int = 5, rotation: bool = False, seed: int = 3, name: str = "wrn-10-1") -> Network:
    torch.manual_seed(seed)
    return build_model(name, classes, heads=[Head("rotation", lambda k, d: [4])] if rotation else [])


def test_all_but_the_heads_are_taken_over(trained: Path) -> None:
    model = network(classes=9, rotation=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    transfer.load_into(model, transfer.read(str(trained)))
    stored = safetensors.torch.load_file(trained / weights.FILE)
    heads = {"head.weight", "head.bias", "rotation.weight", "rotation.bias"}
    assert heads < before.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in heads else stored[name]), name
    assert not torch.equal(model.bn.running_var, torch.ones_like(model.bn.running_var)), "statistics too"
    assert model.head.weight.shape[0] == 9


def after_no_step(monkeypatch: pytest.MonkeyPatch, split: Path, runs: Path, **flags: Any) -> dict[str, Any]:
    """What a new run's first checkpoint holds."""
    seen: list[dict[str, Any]] = []

    def note(folder: Path, state: checkpoint.State, identity: dict[str, Any]) -> None:
        copied = [
            {n: t.clone() for n, t in part.items()} for part in (state.model.state_dict(), state.ema.state_dict())
        ]
        seen.append({"model": copied[0], "ema": copied[1], "adam": dict(state.optimizer.state), "step": state.step})
        raise StoreError("seen enough")

    monkeypatch.setattr(checkpoint, "save", note)
    with pytest.raises(StoreError, match="seen enough"):
        start(split, runs, "new", **flags)
    return seen[0]


@pytest.mark.parametrize("method", ["realmix", "supervised", "remixmatch", "fixmatch", "mean_teacher"])
def test_a_run_starts_from_the_loaded_weights_with_a_fresh_head(
    method: str, trained: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = after_no_step(monkeypatch, split, tmp_path, method=method)
    first = after_no_step(monkeypatch, split, tmp_path, method=method, init=str(trained), head="random")
    stored = safetensors.torch.load_file(trained / weights.FILE)
    assert first["step"] == 0
    assert first["adam"] == {}, "no moments of the old run"
    for name, tensor in first["model"].items():
        fresh = name.split(".")[0] in ("head", "rotation")
        assert torch.equal(tensor, plain["model"][name] if fresh else stored[name]), name
    for name, tensor in first["ema"].items():
        assert torch.equal(tensor, first["model"][name]), f"the average of {name} starts from the loaded weights"


def test_the_classifier_of_the_same_classes_is_kept(
    trained: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = after_no_step(monkeypatch, split, tmp_path, method="remixmatch", init=str(trained), model=None)
    stored = safetensors.torch.load_file(trained / weights.FILE)
    plain = after_no_step(monkeypatch, split, tmp_path, method="remixmatch")
    assert first["model"].keys() == plain["model"].keys(), "the model is that of --init"
    for name, tensor in first["model"].items():
        fresh = name.startswith("rotation.")
        assert torch.equal(tensor, plain["model"][name] if fresh else stored[name]), name


def test_the_classifier_of_other_classes_is_not(trained: Path, split: Path, tmp_path: Path) -> None:
    assert transfer.read(str(trained), open_store(split).class_names).head.keys() == {"head.weight", "head.bias"}
    for others in (open_store(split).class_names[::-1], ["one"], []):
        assert not transfer.read(str(trained), others).head
    file = foreign(tmp_path / "w.safetensors", network(classes=3).state_dict(), {"model": "wrn-10-1"})
    with pytest.raises(UsageError, match="cannot be kept"):
        start(split, tmp_path / "runs", "new", init=file, head="kept")
    with pytest.raises(UsageError, match=r"keeps the classifier of --init"):
        start(split, tmp_path / "runs", "new", head="kept")


def test_the_record_names_the_file_and_its_bytes(trained: Path, split: Path, tmp_path: Path) -> None:
    path = start(split, tmp_path, "new", init=str(trained / weights.FILE))
    config = json.loads((path / "config.json").read_text())
    data = (trained / weights.FILE).read_bytes()
    assert config["init"] == {
        "path": str((trained / weights.FILE).resolve()),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert config["run"]["init"] == config["init"]["path"]
    assert json.loads((start(split, tmp_path, "plain") / "config.json").read_text())["init"] is None


def test_a_folder_and_its_file_are_one_and_a_resumed_run_needs_neither(
    trained: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / weights.FILE).write_bytes((trained / weights.FILE).read_bytes())
    whole = start(split, tmp_path / "whole", "run", steps=12, init=str(copy))
    save, saved = checkpoint.save, iter(range(10))

    def interrupt(*arguments: Any) -> None:
        save(*arguments)
        if next(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", interrupt)
    with pytest.raises(Interrupted):
        start(split, tmp_path / "cut", "run", steps=12, init=str(copy / weights.FILE))
    monkeypatch.undo()
    (copy / weights.FILE).unlink()
    path, result = api.resume(tmp_path / "cut" / "run", quiet=True)
    assert result["steps"] == 12
    assert_equal(path, whole)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_another_network_is_refused_by_both_names(trained: Path, split: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds a wrn-10-1, the run trains a wrn-16-1") as caught:
        start(split, tmp_path, "new", init=str(trained), model="wrn-16-1")
    assert "--model wrn-10-1" in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing is left of the run"


def foreign(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    safetensors.torch.save_file(tensors, path, metadata)
    return str(path)


def test_a_file_without_a_name_is_taken_by_its_tensors(tmp_path: Path) -> None:
    theirs, ours = network(seed=1), network(seed=2)
    file = foreign(tmp_path / "w.safetensors", theirs.state_dict())
    transfer.load_into(ours, transfer.read(file))
    assert torch.equal(ours.stem.weight, theirs.stem.weight)
    with pytest.raises(UsageError, match=r"another network.*\n.*'blocks\.") as caught:
        transfer.load_into(network(name="wrn-10-2"), transfer.read(file))
    assert "here" in str(caught.value)
    missing = {name: tensor for name, tensor in theirs.state_dict().items() if name != "stem.weight"}
    with pytest.raises(UsageError, match=r"'stem.weight' is nothing there and \(16, 3, 3, 3\) here"):
        transfer.load_into(ours, transfer.read(foreign(tmp_path / "m.safetensors", missing)))


def test_a_network_of_other_pixels_is_refused(tmp_path: Path) -> None:
    file = foreign(tmp_path / "w.safetensors", network().state_dict(), {"model": "wrn-10-1", "input": "0 to 1"})
    with pytest.raises(StoreError, match="other pixels"):
        transfer.read(file)


def test_what_cannot_be_read_is_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere' does not exist"):
        transfer.read(str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match="is no run"):
        transfer.read(str(tmp_path))
    with pytest.raises(IntegrityError, match="no safetensors file") as caught:
        transfer.read(str(trained / checkpoint.FILE))
    assert "model.safetensors" in str(caught.value)
    cut = tmp_path / weights.FILE
    cut.write_bytes((trained / weights.FILE).read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="damaged"):
        transfer.read(str(tmp_path))
    cut.unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StoreError, match="has not finished") as caught:
        transfer.read(str(tmp_path))
    assert f"--resume {tmp_path}" in str(caught.value)


def test_no_run_starts_elsewhere_unless_asked() -> None:
    assert RunConfig().init is None
