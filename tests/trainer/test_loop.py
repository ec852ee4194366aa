"""The loop: the update by hand, the telemetry, and how a run stops early."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stores.errors import IntegrityError, Interrupted, RealMixError, ResourceError, StorageError
from stores.format import manifest
from trainer import api, config
from trainer.augment.views import Raw
from trainer.config import RunConfig
from trainer.contract import Losses, Views
from trainer.ema import Ema
from trainer.loop import optimizer, train_step
from trainer.methods import load_method
from trainer.runs import checkpoint
from trainer.runs.checkpoint import State
from trainer.runs.record import Spec
from trainer.runs.run_dir import open_run
from trainer.runs.telemetry import Telemetry, mask_quality

SUPERVISED = load_method("supervised")


def run_of(**changes) -> RunConfig:
    asked = RunConfig(
        **({"method": "supervised", "model": "wrn-10-1", "batch": 4, "steps": 6, "log_every": 4} | changes)
    )
    return dataclasses.replace(asked, device="cpu", precision="fp32", engine="eager", threads=1, tensorboard=False)


def execute(path, store, run, folder=None, method=SUPERVISED):
    run, settings, deviations = config.resolve(run, method.Settings(), store)
    return api.execute(Spec(store, method, settings, run, tuple(deviations)), path, folder, quiet=True)


def lines(path, kind):
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def test_one_update_is_adam_then_kernel_decay_then_the_average():
    """Adam's first step moves every weight by lr·g/(|g| + ε), whatever the gradient's size."""
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -2.0]]))
        model.bias.fill_(3.0)
    run = run_of(lr=0.1, weight_decay=0.5)
    state = State(model, optimizer.build_optimizer(model, run), Ema(model, 0.9), Telemetry(1))
    gradient = torch.tensor([[4.0, -0.01]], dtype=torch.float64)
    method = SimpleNamespace(
        views=lambda settings: Views(),
        loss=lambda learner, batch, settings: Losses(
            (learner.model.weight * gradient).sum() + 7 * learner.model.bias.sum(), {}
        ),
    )
    none = torch.zeros((1, 1, 1, 3), dtype=torch.uint8)
    drawn = {"weak": torch.zeros((1, 3), dtype=torch.int64)}
    train_step.build_step(state, method, None, run, ())(
        Raw(none, torch.zeros(1), None, (drawn,), {}, torch.tensor([1.0, 0.1]))
    )
    weight = torch.tensor([[0.5 - 0.1, -2.0 + 0.1]], dtype=torch.float64) * (1 - 0.5 * 0.1)
    bias = torch.tensor([3.0 - 0.1], dtype=torch.float64)
    torch.testing.assert_close(model.weight.detach(), weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.bias.detach(), bias, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        state.ema.shadow[0], 0.9 * torch.tensor([[0.5, -2.0]]).double() + 0.1 * weight, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(state.ema.shadow[1], 0.9 * torch.tensor([3.0]).double() + 0.1 * bias, rtol=0, atol=1e-6)


def test_kernel_decay_of_the_papers_over_1000_steps():
    weights = [torch.ones(3, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)]
    for _ in range(1000):
        optimizer.decay(weights, 1 - 0.02 * 0.002)
    for weight in weights:
        torch.testing.assert_close(weight, torch.full_like(weight, 0.960789), rtol=0, atol=1e-6)


def test_a_run_leaves_its_whole_directory(store, tmp_path):
    path = tmp_path / "run"
    result = execute(path, store, run_of(eval_every=4))
    assert [record["step"] for record in lines(path, "train")] == [4, 6]
    assert [record["step"] for record in lines(path, "eval")] == [4, 6]
    assert {"loss", "loss_x", "lr", "images_per_s", "data_wait"} <= set(lines(path, "train")[0])
    written = json.loads((path / "result.json").read_text())
    assert {name: value for name, value in written.items() if name not in ("files", "sha256")} == result
    for name in ("config.json", "metrics.jsonl", "checkpoint.pt", "model.safetensors"):
        data = (path / name).read_bytes()
        assert written["files"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert result["steps"] == 6
    assert result["error_last"] == lines(path, "eval")[-1]["test_error"]
    assert result["evaluations"] == result["median_of"] == 2
    assert result["ood"] is None
    assert sum(map(sum, result["confusion"])) == 30
    assert set(result["per_class_error"]) == {"left", "middle", "right"}
    names = {file.name for file in path.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "checkpoint.pt", "model.safetensors", "result.json"),
        *("foreign.safetensors", "outcomes.safetensors"),
    }


def test_the_exported_weights_are_the_evaluated_ones(store, tmp_path):
    from safetensors import safe_open

    from networks.build import build_model
    from trainer.augment.flip_shift import scale

    result = execute(tmp_path / "run", store, run_of())
    with safe_open(tmp_path / "run" / "model.safetensors", "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata["model"] == "wrn-10-1"
    assert json.loads(metadata["class_names"]) == store.class_names
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    model = build_model(metadata["model"], int(metadata["num_classes"])).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        said = model(scale(torch.from_numpy(store.dataset.test_images.values))).argmax(1).numpy()
    assert result["error_last"] == pytest.approx(100 * (said != store.test_labels).mean())


def test_fp32_on_a_gpu_is_not_tf32(store, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    execute(tmp_path / "run", store, run_of(steps=1))
    assert not torch.backends.cudnn.allow_tf32


def failing(monkeypatch, at: int, what):
    """The supervised loss, which calls `what(losses)` in its `at`-th call."""
    calls, loss = [], SUPERVISED.loss

    def counted(*args):
        calls.append(None)
        return what(loss(*args)) if len(calls) == at else loss(*args)

    monkeypatch.setattr(SUPERVISED, "loss", counted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(store, tmp_path, monkeypatch, value):
    failing(monkeypatch, 7, lambda losses: Losses(losses.total * value, losses.metrics))
    with pytest.raises(RealMixError, match="loss of supervised became non-finite at step 7") as caught:
        execute(tmp_path / "run", store, run_of(steps=20, log_every=5, checkpoint_every=4))
    assert caught.value.exit_code == 1
    assert "checkpoint.pt" in caught.value.why
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4
    assert [record["step"] for record in lines(tmp_path / "run", "train")] == [5]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_step_saves_and_says_how_to_continue(store, tmp_path, monkeypatch, number):
    handler = signal.getsignal(number)
    path, plain = tmp_path / "run", tmp_path / "plain"
    execute(plain, store, run_of(eval_every=5))
    with monkeypatch.context() as patch:
        failing(patch, 3, lambda losses: signal.raise_signal(number) or losses)
        with pytest.raises(Interrupted, match="interrupted at step 3") as caught:
            execute(path, store, run_of(eval_every=5))
    assert signal.getsignal(number) is handler
    assert f"realmix-train --resume {path}" in caught.value.hint
    assert torch.load(path / "checkpoint.pt", weights_only=True)["step"] == 3
    execute(path, store, run_of(eval_every=5), folder=open_run(path))
    assert (path / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_a_full_disk_stops_the_run_and_says_how_to_continue(store, tmp_path, monkeypatch):
    path = tmp_path / "run"
    write = manifest.write_atomically

    def full(file, data):
        if path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(manifest, "write_atomically", full)
    with pytest.raises(ResourceError, match="is full") as caught:
        execute(path, store, run_of())
    assert f"realmix-train --resume {path}" in caught.value.hint
    monkeypatch.undo()
    assert execute(path, store, run_of(), folder=open_run(path))["steps"] == 6


def losses_of(value: float, keep=None) -> Losses:
    total = torch.tensor(value)
    return Losses(total, {"loss_x": total / 2}, None if keep is None else torch.tensor(keep))


def test_telemetry_gives_means_and_starts_again():
    telemetry = Telemetry(3)
    for value in (1.0, 2.0, 6.0):
        telemetry.add(losses_of(value), None)
    assert telemetry.pending == 3
    assert telemetry.flush() == {"loss": 3.0, "loss_x": 1.5}
    telemetry.add(losses_of(5.0), None)
    assert telemetry.flush() == {"loss": 5.0, "loss_x": 2.5}


def test_telemetry_finds_the_first_bad_step():
    telemetry = Telemetry(4)
    assert telemetry.first_bad() is None
    for value in (1.0, float("inf"), 1.0, float("nan")):
        telemetry.add(losses_of(value), None)
    assert telemetry.first_bad() == 1


def test_the_masks_precision_and_recall_pool_both_views():
    """Two views of 3 samples, the third OOD: masked are rows 2 (OOD) and 3; row 5, OOD too, is kept."""
    telemetry = Telemetry(2)
    telemetry.add(losses_of(1.0, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]), torch.tensor([False, False, True]))
    record = telemetry.flush()
    assert (record["ood_precision"], record["ood_recall"]) == (0.5, 0.5)
    telemetry.add(losses_of(1.0, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]), torch.tensor([True, False, False]))
    record = telemetry.flush()
    assert (record["ood_precision"], record["ood_recall"]) == (1.0, 0.5)
    assert telemetry.counts == {"masked_ood": 2, "masked": 3, "ood": 4, "rows": 12}
    assert mask_quality(telemetry.counts) == {"precision": 2 / 3, "recall": 0.5}
    assert mask_quality({"masked_ood": 0, "masked": 0, "ood": 0, "rows": 4}) == {"precision": None, "recall": None}


def test_realmix_reports_the_mask_on_mismatch_stores(make_store, tmp_path):
    store = make_store(protocol="mismatch", ood=(2,), gamma=0.25)
    result = execute(tmp_path / "run", store, run_of(method="realmix"), method=load_method("realmix"))
    assert result["ood"]["rows"] == 6 * 8
    assert result["ood"]["masked"] == 6 * 2
    assert 0 <= result["ood"]["precision"] <= 1
    assert {"ood_precision", "ood_kept", "weight_u"} <= set(lines(tmp_path / "run", "train")[0])


def test_every_placement_trains_the_same_weights(store, tmp_path):
    placements = ("host", "device", "mapped")
    for feed in placements:
        execute(tmp_path / feed, store, run_of(method="realmix", feed=feed), method=load_method("realmix"))
    weights = [(tmp_path / feed / "model.safetensors").read_bytes() for feed in placements]
    assert weights[0] == weights[1] == weights[2]


@pytest.mark.parametrize("error", [StorageError("403"), IntegrityError("a damaged chunk"), OSError(errno.EIO, "torn")])
def test_images_that_cannot_be_read_end_the_run_with_its_last_step_saved(store, tmp_path, monkeypatch, error):
    path, plain = tmp_path / "run", tmp_path / "plain"
    execute(plain, store, run_of(eval_every=5))
    schedule = SUPERVISED.schedule

    def failing(step, *given):
        if step == 3:
            raise error
        return schedule(step, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SUPERVISED, "schedule", failing)  # called where a step's batch is prepared
        with pytest.raises(type(error)) as caught:
            execute(path, store, run_of(eval_every=5))
    if isinstance(error, RealMixError):
        assert f"step 3 is saved: continue with `realmix-train --resume {path}`" in str(caught.value)
    assert torch.load(path / "checkpoint.pt", weights_only=True)["step"] == 3
    execute(path, store, run_of(eval_every=5), folder=open_run(path))
    assert (path / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert lines(path, "train")[0]["loss"] == lines(plain, "train")[0]["loss"]


def test_a_signal_while_images_are_waited_for_saves_the_step_before(store, tmp_path, monkeypatch):
    path, schedule, silent = tmp_path / "run", SUPERVISED.schedule, threading.Event()

    def waiting(step, *given):
        if step == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGHUP)
            silent.wait(60)
        return schedule(step, *given)

    monkeypatch.setattr(SUPERVISED, "schedule", waiting)  # called where a step's batch is prepared
    save = checkpoint.save

    def save_and_let_go(folder, state, identity):
        save(folder, state, identity)
        if state.step:
            silent.set()

    monkeypatch.setattr(checkpoint, "save", save_and_let_go)
    with pytest.raises(Interrupted, match=r"interrupted at step [23]"):
        execute(path, store, run_of())
    assert silent.is_set(), "it was saved while the loader still waited"


def test_a_signal_at_the_last_step_ends_it_and_the_result_follows_later(store, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing(patch, 6, lambda losses: signal.raise_signal(signal.SIGTERM) or losses)
        with pytest.raises(Interrupted, match="interrupted at step 6"):
            execute(path, store, run_of())
    assert execute(path, store, run_of(), folder=open_run(path))["steps"] == 6
