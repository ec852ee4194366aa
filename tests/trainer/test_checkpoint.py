"""Checkpoints: complete, atomic, and refused when they are not what was written."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from networks.build import build_model
from stores.errors import IntegrityError, RealMixError, StoreError
from trainer.config import RunConfig
from trainer.contract import Losses
from trainer.ema import Ema
from trainer.loop.optimizer import build_optimizer
from trainer.runs import checkpoint
from trainer.runs.checkpoint import State
from trainer.runs.telemetry import Telemetry

CPU = torch.device("cpu")
IDENTITY = {"store": "abc", "run": {"steps": 3}}


def make_state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    model = build_model("wrn-10-1", 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, RunConfig(lr=0.01))
    return State(model, optimizer, Ema(model, 0.9), Telemetry(5), {"ages": torch.zeros(3)})


def advance(state: State, steps: int) -> None:
    for _ in range(steps):
        x = torch.full((4, 3, 8, 8), 0.1 * (state.step + 1)) + torch.linspace(-1, 1, 8)
        loss = state.model(x, update=0).square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.ema.update()
        state.telemetry.add(Losses(loss, {"loss_x": loss.detach()}), None)
        state.method["ages"] += 1
        state.step += 1


def load(folder: Path, state: State, identity: dict) -> None:
    checkpoint.restore(folder, checkpoint.read_own(folder, identity), state, IDENTITY["run"]["steps"], CPU)


def tensors(state: State) -> list[torch.Tensor]:
    moments = [value for entry in state.optimizer.state.values() for value in entry.values()]
    return [*state.model.state_dict().values(), *state.ema.shadow, *moments, *state.method.values()]


@pytest.fixture
def saved(tmp_path) -> State:
    state = make_state()
    advance(state, 3)
    state.seconds, state.confusion = 1.5, torch.eye(3, dtype=torch.int64)
    state.history = [{"step": 2, "test_error": 50.0}]
    checkpoint.save(tmp_path, state, IDENTITY)
    return state


def test_everything_comes_back_and_goes_on_as_if_never_left(saved, tmp_path):
    other = make_state(seed=1)
    load(tmp_path, other, IDENTITY)
    assert (other.step, other.seconds, other.history) == (3, 1.5, [{"step": 2, "test_error": 50.0}])
    assert torch.equal(other.confusion, saved.confusion)
    for state in (saved, other):
        advance(state, 2)
    pairs = list(zip(tensors(saved), tensors(other), strict=True))
    assert len(pairs) > 100
    assert all(torch.equal(a, b) for a, b in pairs)
    assert saved.telemetry.flush() == other.telemetry.flush()


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_an_integrity_error_and_stays(saved, tmp_path, share):
    path = tmp_path / checkpoint.FILE
    data = path.read_bytes()[: int(path.stat().st_size * share)]
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="truncated or damaged"):
        load(tmp_path, make_state(), IDENTITY)
    assert path.read_bytes() == data


def test_garbage_and_a_flipped_byte_are_integrity_errors(saved, tmp_path):
    path = tmp_path / checkpoint.FILE
    good = path.read_bytes()
    middle = len(good) // 2
    for bad in (b"no checkpoint at all", good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]):
        path.write_bytes(bad)
        with pytest.raises(IntegrityError):
            load(tmp_path, make_state(), IDENTITY)


def test_a_missing_file_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="no checkpoint"):
        load(tmp_path, make_state(), IDENTITY)


def test_the_checkpoint_of_another_run_is_refused_by_what_differs(saved, tmp_path):
    with pytest.raises(StoreError, match="differs in store"):
        load(tmp_path, make_state(), IDENTITY | {"store": "xyz"})
    torch.save({"format": 99}, tmp_path / checkpoint.FILE)
    with pytest.raises(StoreError, match="this version"):
        load(tmp_path, make_state(), IDENTITY)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_what_a_method_remembered_otherwise_is_another_version(saved, tmp_path):
    other = make_state(1)
    other.method = {"years": torch.zeros(3)}
    before = [tensor.clone() for tensor in tensors(other)]
    with pytest.raises(StoreError, match="no checkpoint of this version"):
        load(tmp_path, other, IDENTITY)
    assert all(map(torch.equal, tensors(other), before)), "nothing is half loaded"


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))):
        write({"format": 1, "step": Trap()}, tmp_path / checkpoint.FILE)
        with pytest.raises(IntegrityError) as caught:
            load(tmp_path, make_state(), IDENTITY)
        assert "weights_only" not in str(caught.value), "torch's advice would run it"
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("where", ["model", "ema", "running statistics"])
def test_a_bad_state_never_replaces_a_good_one(saved, tmp_path, where):
    before = (tmp_path / checkpoint.FILE).read_bytes()
    tensor = {
        "model": saved.model.head.weight,
        "ema": saved.ema.shadow[0],
        "running statistics": saved.model.bn.running_var,
    }
    with torch.no_grad():
        tensor[where].select(0, 0).fill_(float("nan"))
    with pytest.raises(RealMixError, match="step 3"):
        checkpoint.save(tmp_path, saved, IDENTITY)
    assert (tmp_path / checkpoint.FILE).read_bytes() == before


def test_a_failing_write_leaves_the_old_file_alone(saved, tmp_path, monkeypatch):
    before = (tmp_path / checkpoint.FILE).read_bytes()
    advance(saved, 1)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, saved, IDENTITY)
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]
