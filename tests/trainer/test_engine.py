"""The step engine: compiled equals plain, nothing in a step waits for the device, names stay plain, a recorded step."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rounding import ADAM, assert_same, bound
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from networks.build import build_model
from trainer import config, hardware
from trainer.augment.views import Raw, make_batch
from trainer.config import RunConfig
from trainer.contract import Losses
from trainer.data.loader import Loader, sizes_of
from trainer.ema import Ema
from trainer.functional import schedules
from trainer.loop import train_step
from trainer.loop.optimizer import build_optimizer, groups_of
from trainer.methods import METHODS, load_method
from trainer.runs.checkpoint import State
from trainer.runs.telemetry import Telemetry

CPU = torch.device("cpu")
STEPS = 20


@pytest.fixture(scope="module")
def split(tiny: Path) -> Path:
    return tiny.with_name("tiny_20")


def train(split: Path, runs: Path, kind: str) -> Path:
    """Train in float64, in a process of its own: what the compiler imports warns of itself."""
    words = ["--store", split, "--runs", runs, "--name", kind, "--engine", kind, "--model", "wrn-10-1"]
    words += ["--steps", STEPS, "--batch", 8, "--threads", 1, "--device", "cpu", "--quiet"]
    settings = ["precision=fp32", "tensorboard=false", "log_every=1", "eval_every=10", "rampup_steps=10"]
    words += [word for assignment in settings for word in ("--set", assignment)]
    code = "from rounding import in_float64; from trainer.cli import main\nwith in_float64(): main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    # told of other instructions than the machine's, torch's compiler writes C++ that does not build, or crashes
    environment.pop("ATEN_CPU_CAPABILITY", None)
    command = [sys.executable, "-c", code, *map(str, words)]
    subprocess.run(command, check=True, timeout=900, capture_output=True, env=environment)
    return runs / kind


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_a_compiled_run_follows_the_plain_one(split: Path, tmp_path: Path) -> None:
    """Rounding differs alone, and each step of Adam may stretch that by its rate over 1e-8."""
    plain, compiled = train(split, tmp_path, "eager"), train(split, tmp_path, "compiled")
    ours, theirs = losses(compiled), losses(plain)
    assert len(ours) == len(theirs) == STEPS
    stretched = 0.002 * ADAM * STEPS
    assert ours == pytest.approx(theirs, rel=bound(torch.float32, 100) + bound(torch.float64, stretched=stretched))
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (compiled, plain)]
    for part in ("model", "ema"):
        assert states[0][part].keys() == states[1][part].keys(), "no name shows the compiler"
        for name, theirs in states[1][part].items():
            assert_same(states[0][part][name], theirs, f"{part}: {name}", stretched=stretched)
    assert json.loads((compiled / "config.json").read_text())["run"]["engine"] == "compiled"


# --- nothing waits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_step_on_a_gpu_reads_nothing_back(make_store: Any, name: str) -> None:
    """On tensors that say they are on a GPU and hold nothing, whatever must know a value is an error.

    Autograd's engine wants a real device, so the backward pass is left out; its operations are the forward ones'.
    """
    store = make_store(protocol="mismatch", ood=(2,), gamma=0.25)
    run, settings, loader = prepared(store, name)
    works, method, gpu = [loader.batch(i) for i in range(3)], load_method(name), torch.device("cuda", 0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with gpu:
            state, other = state_of(store, run, settings), state_of(store, run, settings)
        state.ema.teacher = lambda: other.model  # tensors that hold nothing cannot be copied
        declared = method.views(settings)
        learner = train_step.build_learner(state, declared, compiled=False)
        for work in works:
            raw = on(work, gpu)
            batch = make_batch(raw, declared, loader.schedule_names, learner.state)
            losses = forward_only(method, learner, batch, settings)
            for parameter in state.model.parameters():
                parameter.grad = torch.empty_like(parameter)
            state.optimizer.step = lambda: None  # torch's fused kernels: they exist on real devices alone
            train_step.update(state, groups_of(state.model, run), raw.schedule, run)
            state.telemetry.add(losses, raw.ood)
            assert losses.total.device == gpu
        with pytest.raises(DataDependentOutputException):
            losses.total.item()


def forward_only(method: Any, learner: Any, batch: Any, settings: Any) -> Losses:
    """The loss; of a method that differentiates on its way, with its gradients made up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", lambda outputs, inputs: tuple(torch.empty_like(i) for i in [inputs]))
        return method.loss(learner, batch, settings)


def on(raw: Raw, device: torch.device) -> Raw:
    """A step's inputs as tensors of a device that is not there."""

    def there(tensor: Tensor | None) -> Any:
        return None if tensor is None else torch.empty_like(tensor, device=device)

    return Raw(
        there(raw.x),
        there(raw.y),
        there(raw.u),
        tuple({name: there(values) for name, values in view.items()} for view in raw.views),
        {name: there(values) for name, values in raw.draws.items()},
        there(raw.schedule),
        there(raw.ood),
        there(raw.u_id),
        there(raw.second),
        there(raw.second_id),
    )


def prepared(store: Any, name: str) -> tuple[RunConfig, Any, Loader]:
    """A method's resolved settings, and its loader."""
    method = load_method(name)
    flags = {"method": name, "model": "wrn-10-1", "steps": 10, "batch": 4}
    flags |= {"device": "cpu", "engine": "eager", "precision": "fp32"}
    run, settings = config.build(method, None, [], flags)
    run, settings, _ = config.resolve(run, settings, store)
    run = hardware.resolve(run)
    return run, settings, Loader(store, method, settings, run, CPU)


def state_of(store: Any, run: RunConfig, settings: Any) -> State:
    method = load_method(run.method)
    model = build_model(run.model, store.num_classes, 0.1, method.views(settings).heads)
    own = method.init_state(sizes_of(store, method.views(settings), run), settings)
    return State(model, build_optimizer(model, run), Ema(model, 0.9), Telemetry(100), own)


# --- bf16 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_bf16_is_for_the_network_and_never_for_its_images(
    make_store: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """bf16 holds 8 bits: half of the grey levels of a view would be others."""
    store, method, seen, losses = make_store(), load_method(name), [], []
    made = train_step.make_batch
    monkeypatch.setattr(train_step, "make_batch", lambda *given: seen.append(made(*given)) or seen[-1])
    for precision in ("fp32", "bf16"):
        run, settings, loader = prepared(store, name)
        torch.manual_seed(0)
        state = state_of(store, run, settings)
        run = dataclasses.replace(run, precision=precision)
        step = train_step.build_step(state, method, settings, run, loader.schedule_names)
        losses.append(step(loader.batch(3)).total.item())
    for ours, theirs in zip((seen[0].x, *seen[0].u), (seen[1].x, *seen[1].u), strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert torch.equal(ours, theirs)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0], "it was bf16"


@pytest.mark.parametrize("name", METHODS)
def test_metrics_wait_without_a_gradient(make_store: Any, name: str) -> None:
    store, method = make_store(), load_method(name)
    run, settings, feed = prepared(store, name)
    step = train_step.build_step(state_of(store, run, settings), method, settings, run, feed.schedule_names)
    for metric, value in step(feed.batch(0)).metrics.items():
        assert not value.requires_grad, metric


# --- optimizers -----------------------------------------------------------------------------------------------------


def test_sgd_is_nesterov_with_l2_on_the_kernels_alone() -> None:
    """Two steps by hand (Sutskever's form, as torch writes it), at the schedule's rate."""
    model = torch.nn.Linear(2, 1).double()
    run = RunConfig(optimizer="sgd", lr=0.03, lr_schedule="cosine", weight_decay=0.5, momentum=0.9, ema_decay=0.9)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    state = State(model, build_optimizer(model, run), Ema(model, 0.9), Telemetry(1))
    gradient = torch.tensor([[4.0, -1.0]], dtype=torch.float64)
    velocity, velocity_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for k in range(2):
        lr = schedules.learning_rate("cosine", 0.03, k, 2)
        model.weight.grad, model.bias.grad = gradient.clone(), torch.full_like(bias, 7.0)
        train_step.update(state, groups_of(model, run), torch.tensor([1.0, lr]), run)
        g = gradient + 0.5 * weight
        velocity = 0.9 * velocity + g
        weight = weight - torch.tensor(lr).double() * (g + 0.9 * velocity)
        velocity_bias = 0.9 * velocity_bias + 7.0
        bias = bias - torch.tensor(lr).double() * (7.0 + 0.9 * velocity_bias)
    torch.testing.assert_close(model.weight.detach(), weight, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(model.bias.detach(), bias, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("k", "rate"), [(0, 0.03), (1000, 0.029999974), (2**19, 0.023190314), (2**20, 0.005852710)])
def test_cosine_rate_of_fixmatch(k: int, rate: float) -> None:
    assert schedules.learning_rate("cosine", 0.03, k, 2**20) == pytest.approx(rate, rel=1e-7)
    assert schedules.learning_rate("constant", 0.03, k, 2**20) == 0.03


# --- choice of the engine -------------------------------------------------------------------------------------------


def test_auto_compiles_long_runs_where_a_compiler_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/" + name)
    for steps, expected in ((100, "eager"), (hardware.COMPILED_FROM["cpu"], "compiled")):
        assert hardware.resolve(RunConfig(device="cpu", steps=steps, precision="bf16")).engine == expected
        assert hardware.resolve(RunConfig(device="cpu", steps=steps, precision="fp32")).engine == "eager"
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    assert hardware.resolve(RunConfig(device="cpu")).engine == "eager"
    assert hardware.resolve(RunConfig(device="cpu", steps=1, engine="compiled")).engine == "compiled"
    assert not hardware.resolve(RunConfig(device="cpu", engine="compiled")).cuda_graph


# --- the recorded step, with CUDA's part played by plain calls --------------------------------------------------------


def test_a_recorded_step_is_warmed_up_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording computes nothing and every call makes one update, from the newest inputs."""
    made: list[float] = []
    kept: list[Raw] = []

    class Graph:
        def replay(self) -> None:
            made.append(kept[0].schedule.item())

    class Recording:
        def __enter__(self) -> None:
            self.before = list(made)

        def __exit__(self, *_: object) -> None:
            made[:] = self.before  # what is recorded does not run

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": Graph,
        "graph": lambda graph, **how: Recording(),
        "synchronize": lambda: None,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda s: Recording.__new__(_Nothing),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def step(raw: Raw) -> Losses:
        kept[:] = [raw]
        made.append(raw.schedule.item())
        return Losses(raw.schedule, {})

    recorded = train_step.Recorded(step)
    pixels = torch.zeros((1, 1, 1, 3), dtype=torch.uint8)
    for i in range(7):
        drawn: dict[str, Tensor] = {"weak": torch.full((1, 3), i)}
        raw = Raw(
            pixels, torch.tensor([i]), None, (drawn,), {"lam": torch.tensor([float(i)])}, torch.tensor([float(i)])
        )
        recorded(raw)
    assert made == [0, 1, 2, 3, 4, 5, 6]
    assert kept[0].views[0]["weak"].tolist() == [[6, 6, 6]]
    assert kept[0].draws["lam"].item() == 6


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
