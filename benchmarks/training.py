"""The parts of a run as trainer.api puts them together, for benchmarks that time them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import api
from trainer.augment.views import make_batch
from trainer.config import RunConfig
from trainer.data.loader import Loader
from trainer.data.split import open_split
from trainer.loop import assemble as building
from trainer.loop import optimizer, train_step
from trainer.runs.checkpoint import State

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
    store_path: Path,
    model: str,
    batch: int,
    how: str,
    precision: str,
    threads: int | None,
    copies: int | None = None,
    name: str = "realmix",
    assignments: Sequence[str] = (),
) -> Parts:
    """A method from a split store; `how` is the engine's name, `assignments` are settings as "key=value"."""
    flags = {
        "method": name,
        "model": model,
        "batch": batch,
        "engine": how,
        "precision": precision,
        "threads": threads,
        "copies": copies,
    }
    spec = api.configure(open_split(str(store_path)), assignments, flags)
    made = building.assemble(spec)
    step = train_step.build_step(made.state, spec.method, spec.settings, spec.run, made.loader.schedule_names)
    side = spec.store.dataset.image_size[0]
    return Parts(made.state, made.loader, step, spec.run, spec.method, spec.settings, side)


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
    groups = optimizer.groups_of(parts.state.model, parts.run)
    schedule = torch.tensor([1.0, 0.0], device=next(parts.state.model.parameters()).device)
    return _median(lambda _: train_step.update(parts.state, groups, schedule, parts.run))


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
