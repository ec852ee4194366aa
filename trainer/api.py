"""A run from its start, or from its checkpoint, to its result: opens the store, builds the parts, runs the loop.

A new run is checked completely before its directory appears; a resumed one takes every setting from its directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

import stores
from stores import DatasetStore, SplitStore, open_store
from stores.errors import Interrupted, RealMixError, ResourceError, StoreError
from stores.format import manifest, names
from stores.storage.location import Location, stores_in
from stores.system.text import say
from trainer import config, distributed, hardware
from trainer.augment import views
from trainer.config import RunConfig
from trainer.data.loader import Loader
from trainer.data.placement import Placement, place
from trainer.evaluation import assess
from trainer.evaluation.evaluator import Evaluator, per_class_error, summary
from trainer.evaluation.mismatch_share import Sample
from trainer.loop import loop, train_step
from trainer.methods import load_method
from trainer.networks.ema import Ema
from trainer.networks.wide_resnet import build_model
from trainer.runs import checkpoint, trackers, transfer, weights
from trainer.runs import run_dir as rundir
from trainer.runs.checkpoint import State
from trainer.runs.console import Console, header
from trainer.runs.run_dir import Run
from trainer.runs.telemetry import Telemetry, mask_quality
from trainer.runs.trackers import Curves


def start(
    assignments: Sequence[str], flags: Mapping[str, Any], runs: Path, name: str | None, quiet: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Train a new run.

    Args:
        assignments: `--set` "key=value" strings.
        flags: RunConfig fields given on the command line (None = not given), "store" and "method" among them.
        runs: folder for the run's directory; name: of that directory, by default <store>_<method>_s<seed>.

    Returns:
        the run's directory and its result.
    """
    distributed.join(hardware.kind(flags.get("device") or RunConfig.device))
    method = load_method(flags.get("method") or RunConfig.method)
    store = open_split(flags["store"])
    run, settings = config.build(method, family(store), assignments, flags)
    run, settings, deviations = config.resolve(run, settings, store)
    run = dataclasses.replace(hardware.resolve(run), store=str(store.path.resolve()))
    placement = place(store, method.views(settings), run, hardware.device(run))
    if run.feed == "auto":
        run = dataclasses.replace(run, feed=placement.feed)
    default = f"{names.derive(store.name)}_{run.method}_s{run.seed}"
    path = runs / (default if name is None else names.require(name, "--name"))
    trackers.require(run)
    distributed.by_first(lambda: rundir.refuse_existing(path))
    backbone = None
    if run.init is not None:
        backbone = transfer.read(run.init, run.model)
        run = dataclasses.replace(run, init=str(backbone.path))
    record = {
        "command": sys.argv,
        "run": dataclasses.asdict(run),
        "settings": dataclasses.asdict(settings),
        "deviations": deviations,
        "init": None if backbone is None else backbone.describe(),
        "store": describe(store),
        "device": hardware.describe(run),
        "versions": versions(),
    }
    with _resumable(path):
        return path, _execute(path, None, record, store, run, settings, quiet, backbone, placement)


def resume(path: Path, store_path: str | Path | None = None, quiet: bool = False) -> tuple[Path, dict[str, Any]]:
    """Continue a run from its checkpoint; a finished one gives its result again.

    Args:
        store_path: where its store is now, if it moved.
    """
    folder = rundir.open_run(path)
    result = folder.result()
    if result is not None:
        return path, result
    where = str(path / "config.json")
    run: RunConfig = config.load(RunConfig, folder.config["run"], where)
    settings = config.load(load_method(run.method).Settings, folder.config["settings"], where)
    run = dataclasses.replace(run, store=str(store_path or run.store))
    distributed.join(run.device)
    distributed.by_first(folder.hold)  # before its checkpoint is read: another process may be going on with it
    try:
        result = folder.result()
        if result is not None:  # it has, and has finished
            return path, result
        store = open_split(run.store)
        expected = folder.config["store"]["fingerprint"]
        if store.fingerprint != expected:
            raise StoreError(
                f"'{store.path}' is not the store that '{path}' was trained from",
                f"its fingerprint is {store.fingerprint[:12]}, the run's is {expected[:12]}",
                "--store says where the store is now",
            )  # fmt: skip
        with _resumable(path):
            return path, _execute(path, folder, folder.config, store, hardware.resolve(run), settings, quiet)
    finally:
        folder.close()


@contextlib.contextmanager
def _resumable(path: Path) -> Iterator[None]:
    """Whatever interrupts a run that has a directory says how it goes on."""
    try:
        yield
    except Interrupted as stopped:
        if path.exists():
            stopped.hint = f"continue with `realmix-train --resume {path}`"
        raise


def _execute(
    path: Path,
    folder: Run | None,
    record: dict[str, Any],
    store: SplitStore,
    run: RunConfig,
    settings: Any,
    quiet: bool,
    backbone: transfer.Backbone | None = None,
    placement: Placement | None = None,
) -> dict[str, Any]:
    """Build the parts, make the directory unless it exists, train, write the result."""
    assert run.bn_momentum is not None, "a resolved configuration"
    assert run.ema_decay is not None
    method, device = load_method(run.method), hardware.device(run)
    identity = {"store": store.fingerprint, "run": _what(run), "settings": dataclasses.asdict(settings)}
    # before anything is made as large as the run's config says
    saved = None if folder is None else checkpoint.read_own(path, identity)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: VAT's direction is a small difference of two predictions
    torch.manual_seed(run.seed)
    declared = method.views(settings)
    views.check(declared, run.batch, store.dataset.image_size)
    model = build_model(run.model, store.num_classes, run.bn_momentum, declared.rotation)
    model.check(run.batch, store.dataset.image_size)
    if backbone is not None:
        transfer.load_into(model, backbone)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    state = State(
        model, train_step.build_optimizer(model, run), Ema(model, run.ema_decay), Telemetry(run.log_every),
        {name: tensor.to(device) for name, tensor in method.init_state(store.num_classes, settings).items()},
    )  # fmt: skip
    if saved is not None:
        checkpoint.restore(path, saved, state, device)
        del saved
    loader = Loader(store, method, settings, run, device, state.step, placement)
    evaluator = Evaluator(store, model, device, run.precision == "bf16")
    sample = Sample(store) if declared.mismatch and distributed.rank() == 0 else None

    def open_folder() -> Run:
        if folder is None:
            return rundir.create(path, record, lambda aside: checkpoint.save(aside, state, identity))
        folder.hold()
        damaged = folder.cut_back(state.step)
        if damaged and not quiet:
            say(f"left out {damaged} damaged line(s) of metrics.jsonl", error=True)
        return folder

    held = distributed.by_first(open_folder) or Run(path, record)
    try:
        return _finish(path, held, record, store, run, settings, quiet, state, loader, evaluator, sample, identity)
    finally:
        held.close()


def _finish(
    path: Path, folder: Run, record: dict[str, Any], store: SplitStore, run: RunConfig, settings: Any, quiet: bool,
    state: State, loader: Loader, evaluator: Evaluator, sample: Sample | None, identity: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Train from where the state is to the end and write the result, in a directory that this process holds."""
    method, first = load_method(run.method), distributed.rank() == 0
    curves = Curves(path, state.step, run, record) if first and (run.tensorboard or run.wandb) else None
    again = f"continue with `realmix-train --resume {path}`"
    with Console(run.steps, state.step, loader.images_per_step, quiet or not first) as console:
        for line in header(store, run, config.changed(settings), loader, record["deviations"]):
            console.say(line)
        if run.init is not None:
            console.say(f"init    {run.init}")
        console.say(f"run in  {path}" + (f", continued at step {state.step:,}" if state.step else ""))
        try:
            loop.train(state, method, settings, run, loader, evaluator, folder, identity, console, curves, sample)
        except Interrupted as stopped:
            if not first:  # the first process says it for all
                raise SystemExit(stopped.exit_code) from None
            raise
        except KeyboardInterrupt:  # a second one, without a command line
            raise Interrupted("interrupted") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ResourceError(
                f"the disk that holds '{path}' is full", hint=f"free some space, then {again}"
            ) from None
        except RuntimeError as error:
            if not distributed.is_lost_process(error):
                raise
            raise RealMixError(
                f"another process of this run ended by step {state.step}", "the processes cannot go on without it",
                f"{again}, under torchrun as before",
            ) from None  # fmt: skip
        finally:
            if curves is not None:
                curves.close()
    if not first:
        return {}
    state.ema.apply_to(evaluator.model)
    weights.export(
        path, evaluator.model, run.model, store.class_names, store.dataset.image_size, range_of(store.dataset)
    )
    result = outcome(state, store, run, assess.assess(evaluator, store))
    folder.write_result(result)
    return result


def outcome(state: State, store: SplitStore, run: RunConfig, assessment: Mapping[str, Any]) -> dict[str, Any]:
    """Content of result.json. Errors in per cent; for the assessment see `assess`."""
    assert state.confusion is not None, "the last step is always evaluated"
    return {
        "method": run.method,
        "model": run.model,
        "seed": run.seed,
        "steps": state.step,
        **summary(state.history),
        "seconds": state.seconds,
        "store": store.name,
        "store_fingerprint": store.fingerprint,
        "class_names": store.class_names,
        "per_class_error": per_class_error(state.confusion, store.class_names),
        "confusion": state.confusion.tolist(),
        "ood": {**state.telemetry.counts, **mask_quality(state.telemetry.counts)} or None,
        "calibration": assessment["calibration"],
        "detection": assessment["detection"],
        "history": state.history,
    }


def open_split(path: str | Location) -> SplitStore:
    """Open the store to train from.

    Raises:
        StoreError: it is no store, or a dataset store, which does not say which images are labelled.
    """
    store = open_store(path)
    if isinstance(store, SplitStore):
        return store
    beside = []
    for candidate in stores_in(store.path.resolve().parent):
        try:
            content = manifest.read(candidate)
        except StoreError:  # a neighbour's damage is another day's error
            continue
        if content["kind"] == "split" and content["dataset"]["name"] == store.name:
            beside.append(candidate.name)
    raise StoreError(
        f"'{path}' is a dataset store: it does not say which images are labelled",
        "a run trains from one of its splits",
        f"its splits: {', '.join(beside)}" if beside else f"`realmix-data split {path} --labels 250` makes one",
    )  # fmt: skip


def family(store: SplitStore) -> str | None:
    """Dataset family that the presets know, from the dataset store's manifest ("cifar10", "svhn", …)."""
    return store.dataset.manifest.get("protocol")


def describe(store: SplitStore) -> dict[str, Any]:
    """What a run's record says about its store."""
    return {
        "path": str(store.path.resolve()),
        "name": store.name,
        "fingerprint": store.fingerprint,
        "dataset": store.dataset.name,
        "dataset_fingerprint": store.dataset.fingerprint,
        "protocol": store.protocol,
        "split_seed": store.seed,
        "class_names": store.class_names,
        "image_size": list(store.dataset.image_size),
        "gamma": store.gamma,
        "counts": {name: len(getattr(store, name)) for name in ("labeled", "unlabeled", "valid", "test")},
        "num_copies": store.dataset.num_copies,
        **({} if (range_ := range_of(store.dataset)) is None else {"range": list(range_)}),
    }


def range_of(dataset: DatasetStore) -> tuple[float, float] | None:
    """The numbers that are black and white in its pictures of more than 8 bits, if the build was told."""
    source = dataset.manifest["spec"].get("source")
    found = source.get("range") if isinstance(source, dict) else None
    return None if found is None else (found[0], found[1])


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "realmix": stores.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "zarr": zarr.__version__,
    }


def _what(run: RunConfig) -> dict[str, Any]:
    """The configuration without what may change between two sittings and changes no number.

    That is where the store lies, and whether steps are replayed: several processes do not, one on a GPU does.
    """
    return {name: value for name, value in dataclasses.asdict(run).items() if name not in checkpoint.PASSING}
