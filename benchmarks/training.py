"""The parts of a run as trainer.api puts them together, for benchmarks that time them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import api, config, hardware
from trainer.augment.views import make_batch
from trainer.config import RunConfig
from trainer.data.loader import Loader
from trainer.loop import train_step
from trainer.methods import load_method
from trainer.networks.ema import Ema
from trainer.networks.wide_resnet import build_model, kernels
from trainer.runs.checkpoint import State
from trainer.runs.telemetry import Telemetry

REPEATS = 20  # of each part


@dataclass
class Parts:
    """What a step is made of. `side`: of the images, in pixels."""

    state: State
    loader: Loader
    step: train_step.Step
    run: RunConfig
    method: Any
    settings: Any
    side: int


def assemble(
    store_path: Path, model: str, batch: int, how: str, precision: str, threads: int | None, copies: int | None = None,
    name: str = "realmix", assignments: Sequence[str] = (),
) -> Parts:  # fmt: skip
    """A method from a split store; `how` is the engine's name, `assignments` are settings as "key=value"."""
    store = api.open_split(str(store_path))
    method = load_method(name)
    flags = {"store": str(store_path), "model": model, "batch": batch, "engine": how, "precision": precision,
             "threads": threads, "copies": copies}  # fmt: skip
    run, settings = config.build(method, "cifar10", assignments, flags)
    run, settings, _ = config.resolve(run, settings, store)
    run = hardware.resolve(run)
    assert run.bn_momentum is not None and run.ema_decay is not None
    device = hardware.device(run)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
    torch.manual_seed(run.seed)
    net = build_model(run.model, store.num_classes, run.bn_momentum, method.views(settings).rotation).to(device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    own = {key: tensor.to(device) for key, tensor in method.init_state(store.num_classes, settings).items()}
    state = State(net, train_step.build_optimizer(net, run), Ema(net, run.ema_decay), Telemetry(run.log_every), own)
    loader = Loader(store, method, settings, run, device)
    step = train_step.build_step(state, method, settings, run, loader.schedule_names)
    return Parts(state, loader, step, run, method, settings, store.dataset.image_size[0])


def clock(steps: Iterator[object], warm_up: int, count: int) -> dict[str, float]:
    """Seconds of the first step (`first`), and the median of `count` ones (`seconds`) after `warm_up` more."""
    first, *later = [seconds(steps.__next__) for _ in range(1 + warm_up + count)]
    return {"first": first, "seconds": statistics.median(later[warm_up:])}


def trained(parts: Parts) -> Iterator[None]:
    """A step each time it is asked, as trainer.loop.loop makes them."""
    state = parts.state
    with parts.loader as loader:
        for raw in loader:
            state.telemetry.add(parts.step(raw), raw.ood)
            state.step += 1
            if state.telemetry.pending == parts.run.log_every:
                state.telemetry.flush()
            yield


def seconds(work: Callable[[], object]) -> float:
    """Of one call, the device's work included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _median(work: Callable[[int], object]) -> float:
    return statistics.median(seconds(lambda number=number: work(number)) for number in range(REPEATS))


def time_prepare(parts: Parts) -> float:
    """A batch, which threads prepare while the step computes."""
    return _median(parts.loader.batch)


def time_views(parts: Parts) -> float:
    """Augmentation and scaling, uncompiled."""
    raw, declared, own = parts.loader.batch(0), parts.method.views(parts.settings), parts.state.method
    return _median(lambda _: make_batch(raw, declared, parts.loader.schedule_names, own))


def time_update(parts: Parts) -> float:
    """Optimizer, decay and average, with the last step's gradients."""
    decayed, lr = kernels(parts.state.model), torch.tensor(0.0, device=next(parts.state.model.parameters()).device)
    return _median(lambda _: train_step.update(parts.state, decayed, lr, parts.run))


def time_telemetry(parts: Parts) -> float:
    """A row of metrics, and its share of reading them."""
    losses, telemetry = parts.step(parts.loader.batch(0)), parts.state.telemetry
    telemetry.flush()

    def steps(_: int) -> None:
        for _ in range(parts.run.log_every):
            telemetry.add(losses, None)
        telemetry.flush()

    return _median(steps) / parts.run.log_every


PARTS: dict[str, Callable[[Parts], float]] = {
    "batch (in its thread)": time_prepare,
    "views": time_views,
    "optimizer, decay, average": time_update,
    "telemetry": time_telemetry,
}
