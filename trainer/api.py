"""A run from its settings, or from its checkpoint, to its result.

    configure   settings and a store to a `Spec`: every choice is made, nothing is built or written
    assemble    a `Spec` to `Parts`: model, optimizer, batches, evaluator
    execute     a `Spec` to a result in a run's directory
    train       a new run, from what a command line or a caller says
    resume      a run that has a directory, from its checkpoint

A new run is checked completely before its directory appears; a resumed one takes every setting from its directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from networks.build import build_model
from networks.cost import outputs
from networks.embedded import linear
from networks.hardware import kind
from networks.network import Network
from stores import SplitStore, open_store
from stores.errors import Interrupted, RealMixError, ResourceError, StoreError, UsageError
from stores.format import manifest, names
from stores.storage.location import Location, stores_in
from stores.system import interrupts
from stores.system.text import say
from trainer import config, distributed, hardware
from trainer.config import Resolved, RunConfig, cpu
from trainer.config.build import ON_EMBEDDINGS
from trainer.config.fine_tuning import is_backbone
from trainer.contract import Options
from trainer.data import memory
from trainer.data.embedded import EmbeddedSplit
from trainer.data.loader import Loader, sizes_of
from trainer.data.placement import place, unlabeled_rows
from trainer.ema import Ema
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictor import PoolPredictor
from trainer.loop import fitting, loop, optimizer, prepare
from trainer.loop.finish import finish
from trainer.loop.pace import estimate
from trainer.loop.parts import Parts
from trainer.loop.recorder import Recorder
from trainer.methods import load_method
from trainer.runs import checkpoint, longer, naming, run_dir, transfer
from trainer.runs.checkpoint import State
from trainer.runs.console import Console, header
from trainer.runs.record import Spec
from trainer.runs.run_dir import Run, how_to_continue
from trainer.runs.telemetry import Telemetry
from trainer.runs.trackers import curves as boards

FEW = 2048  # images of a step that fit into any memory


def train(
    assignments: Sequence[str], flags: Mapping[str, Any], runs: Path, name: str | None = None, quiet: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Train a new run.

    Args:
        assignments: "key=value" strings, as `--set` takes them.
        flags: settings by name, "store" (a path, or one that is open) and "method" among them; None: not given.
        runs: folder for the run's directory.
        name: of that directory, by default <store>_<method>_s<seed>, and what differs from the run that has this name.
        quiet: show no progress.

    Returns:
        the run's directory and its result, which is empty in all but the first of several processes.

    Raises:
        RealMixError: as `configure` and `execute`.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; it is saved.
    """
    device = flags.get("device") or flags.get("hardware.device") or RunConfig.device
    distributed.join(kind(device))
    load_method(flags.get("method") or RunConfig.method)  # before a store that may be far away
    spec = configure(open_split(flags["store"]), assignments, flags)
    if name is None:
        path = naming.choose(runs, spec, config.names_of(assignments, flags))
    else:
        path = runs / names.require(name, "--name")
    if os.path.lexists(path):
        require_trainable(spec)  # a mistake in the command is told first
    distributed.by_first(lambda: run_dir.refuse_existing(path))
    return path, execute(spec, path, quiet=quiet)


def resume(
    path: Path, store_path: str | Path | None = None, quiet: bool = False, steps: int | None = None
) -> tuple[Path, dict[str, Any]]:
    """Continue a run from its checkpoint; a finished one says so and gives its result again.

    Args:
        path: the run's directory.
        store_path: where its store is now, if it moved.
        quiet: show no progress.
        steps: make the whole run this long, see `trainer.runs.longer`; None: as long as it is.

    Returns:
        as `train`.

    Raises:
        StoreError: it is no run, another process is training it, or the store is another one.
        UsageError: `steps` is less than the run has, or its method makes none.
        RealMixError: as `execute`.
        Interrupted: as `train`.
    """
    folder = run_dir.open_run(path)
    run = _settings_of(folder)
    if steps in (None, run.steps) and (result := folder.result()) is not None:
        if not quiet:
            for line in longer.finished(path, run):
                say(line, error=True)
        return path, result
    distributed.join(run.device)
    distributed.by_first(folder.hold)  # before its checkpoint is read: another process may be going on with it
    try:
        if steps not in (None, run.steps):
            assert steps is not None
            distributed.by_first(lambda: longer.extend(folder, run, steps))
            folder.config = run_dir.open_run(path).config
            run = _settings_of(folder)
        result = folder.result()
        if result is not None:  # another process has gone on with it, and has finished
            return path, result
        return path, execute(_recorded(folder, run, store_path), path, folder, quiet)
    finally:
        folder.close()


def configure(store: SplitStore, assignments: Sequence[str], flags: Mapping[str, Any]) -> Spec:
    """Make every choice that settings leave open, and read the network that the run starts from, if any.

    Raises:
        UsageError: a setting is unknown or wrong, or this machine or the store cannot do what it asks for.
        StoreError: the store lacks what the method needs; the run to start from is none.
    """
    method = load_method(flags.get("method") or RunConfig.method)
    store = open_split(store, flags.get("embeddings"))
    given = {name: value for name, value in flags.items() if name != "store"}
    backbone = None
    if given.get("init") is not None and not isinstance(store, EmbeddedSplit):
        backbone = transfer.read(str(given["init"]), store.class_names)
    if backbone is not None and "model" not in config.names_of(assignments, given):
        given["model"] = backbone.model
    asked, own = config.build(method, family(store), assignments, given)
    small: list[str] = []
    if kind(asked.device) == "cpu" and not isinstance(store, EmbeddedSplit) and method.fit is None:
        size = store.dataset.image_size
        chosen = cpu.preset(config.names_of(assignments, given), asked, own, size)
        asked, own = config.build(method, family(store), assignments, given | chosen)
        small = cpu.told(chosen, config.papers_network(size))
    if isinstance(store, EmbeddedSplit):
        if asked.init is not None:
            raise UsageError("--init cannot be given with --embeddings", "the network below them is frozen")
        asked = dataclasses.replace(asked, embeddings=store.embeddings.name)
    if method.fit is not None:
        fitting.require_embeddings(store, method)
        asked = dataclasses.replace(asked, steps=1, model=method.NETWORK)
    run, settings, deviations = config.resolve(asked, own, store)
    if run.init is not None:
        backbone = backbone or transfer.read(run.init, store.class_names)
        if asked.head == "auto" and backbone.head:
            run = dataclasses.replace(run, head="kept")
        transfer.require(backbone, run)
    elif run.head == "kept":
        raise UsageError("'head=kept' keeps the classifier of --init", "it is not given")
    run = hardware.resolve(run)
    declared = method.views(settings)
    if run.device == "mps" and declared.policy is not None:
        why = "their amounts are float64, which Apple's GPUs do not have"
        raise UsageError(f"'{run.method}' makes strong views, and --device mps cannot", why, "--device cpu")
    placement = place(store, declared, run, hardware.device(run))
    boards.require(run)
    init = None if backbone is None else str(backbone.path)
    if run.weights not in (None, "pretrained", "none"):
        run = dataclasses.replace(run, weights=str(Path(run.weights).resolve()))
    # "auto" becomes what decides the order of samples; a home that was asked for stays what it is when resumed
    feed = placement.feed if run.feed == "auto" else run.feed
    run = dataclasses.replace(run, feed=feed, init=init, store=str(store.path.resolve()))
    return Spec(store, method, settings, run, (*small, *deviations), backbone, placement)


def require_trainable(spec: Spec) -> None:
    """Check what `assemble` would, without building or reading anything.

    Raises:
        UsageError: the method or the network cannot train with this batch or these images.
    """
    store, run, declared = spec.store, spec.run, spec.method.views(spec.settings)
    spec.method.check(sizes_of(store, declared, run), spec.settings)
    if spec.method.fit is not None:
        return
    with torch.device("meta"):
        _build(spec, "none")


def _require_room(spec: Spec, device: torch.device) -> None:
    """Refuse a batch whose step cannot fit into memory, before the system ends the process.

    Counted is what the convolutions of a wide network give, which the backward pass needs; all else comes on top.
    """
    run, views = spec.run, spec.method.views(spec.settings)
    sizes = sizes_of(spec.store, views, run)
    images = max(1, len(views.labeled)) * sizes.labeled + len(views.unlabeled) * sizes.unlabeled
    if images < FEW or isinstance(spec.store, EmbeddedSplit) or is_backbone(run.model):
        return
    with torch.device("meta"):
        each = outputs(_build(spec, "none"), sizes.image_size) * (2 if run.precision == "bf16" else 4)
    free = memory.free_memory(device)
    if images * each > free:
        fits = max(2, 2 ** int(math.log2(max(2, run.batch * free / (2 * images * each)))))
        what = f"a step of {run.batch:,} labelled images takes at least {images * each / 2**30:,.1f} GiB"
        why = f"{images:,} images go through {run.model}, and {free / 2**30:,.1f} GiB are free"
        raise ResourceError(what, why, f"a smaller one: --batch {fits}")


def _build(spec: Spec, weights: str) -> Network:
    """The run's network as the first step finds it; of a method that is fitted at once, as its only step leaves it.

    Raises:
        UsageError: there is none of this name, or it cannot be trained on such a batch or such images.
    """
    run, store, method = spec.run, spec.store, spec.method
    heads = method.views(spec.settings).heads
    if isinstance(store, EmbeddedSplit):
        reader: linear.OnEmbeddings
        if method.fit is not None:
            reader = fitting.fit(store, method, spec.settings, run.seed)
        else:
            reader = linear.build(run.model, store.embeddings.num_features, store.num_classes, heads)
        for own, found in zip((reader.mean, reader.std), store.standard, strict=True):
            own.copy_(torch.from_numpy(found))
        return reader
    if run.model in linear.NAMES:
        raise UsageError(f"'{run.model}' reads embeddings", hint="--embeddings NAME, or another --model")
    options: dict[str, Any] = {"weights": weights, "size": run.input_size, "frozen": run.bn != "grouped"}
    model = build_model(run.model, store.num_classes, run.bn_momentum, heads, **options)
    model.check(run.batch, store.dataset.image_size)
    return model


def _settings_of(folder: Run) -> Resolved:
    return config.load(Resolved, folder.config["run"], str(folder.path / "config.json"))


def _recorded(folder: Run, run: Resolved, store_path: str | Path | None) -> Spec:
    """What a run's record says that it is, on this machine."""
    method, record = load_method(run.method), folder.config
    settings: Options = config.load(method.Settings, record["settings"], str(folder.path / "config.json"))
    store = open_split(store_path or run.store, run.embeddings)
    expected = record["store"]["fingerprint"]
    if store.fingerprint != expected:
        raise StoreError(
            f"'{store.path}' is not the store that '{folder.path}' was trained from",
            f"its fingerprint is {store.fingerprint[:12]}, the run's is {expected[:12]}",
            "--store says where the store is now",
        )
    run = hardware.resolve(dataclasses.replace(run, store=str(store_path or run.store)))
    return Spec(store, method, settings, run, tuple(record["deviations"]))


def assemble(spec: Spec, path: Path | None = None) -> Parts:
    """Build model, optimizer, batches and evaluator of a run.

    Args:
        spec: the run.
        path: its directory, to go on from its checkpoint; None: a new run.

    Raises:
        StoreError, IntegrityError: the checkpoint is another run's, or damaged.
        UsageError, ResourceError: the batch cannot be made of this store, or does not fit into memory.
    """
    store, method, run = spec.store, spec.method, spec.run
    saved = None if path is None else checkpoint.read_own(path, spec.identity)  # before memory is taken for the rest
    device, declared = hardware.device(run), method.views(spec.settings)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: VAT's direction is a small difference of two predictions
    torch.manual_seed(run.seed)
    sizes = sizes_of(store, declared, run)
    method.check(sizes, spec.settings)
    _require_room(spec, device)
    new, started = path is None, time.perf_counter()
    model = _build(spec, run.weights if new and run.weights is not None else "none")
    fitted = 0.0 if method.fit is None else time.perf_counter() - started
    if spec.backbone is not None:
        transfer.load_into(model, spec.backbone, head=run.head == "kept")
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    if new and not isinstance(store, EmbeddedSplit):
        prepare.prepare(model, store, declared, run, device)
    own = {name: tensor.to(device) for name, tensor in method.init_state(sizes, spec.settings).items()}
    state = State(
        model, optimizer.build_optimizer(model, run), Ema(model, run.ema_decay), Telemetry(run.log_every), own
    )
    state.seconds = fitted
    if path is not None and saved is not None:
        checkpoint.restore(path, saved, state, run.steps, device)
        del saved
    loader = Loader(store, method, spec.settings, run, device, state.step, spec.placement)
    evaluator = Evaluator(store, model, device, run.precision == "bf16")
    predictor = None
    if method.hook_every(run.scheduled, spec.settings) and distributed.rank() == 0:
        predictor = PoolPredictor(store, unlabeled_rows(store, declared), evaluator, run.scheduled)
    return Parts(spec, device, state, loader, evaluator, predictor)


def execute(spec: Spec, path: Path, folder: Run | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train a run to its end and write its result.

    Args:
        spec: the run.
        path: its directory, which appears complete, with a first checkpoint, or not at all.
        folder: the same directory, if it is there already and held by this process: the run goes on.
        quiet: show no progress.

    Returns:
        the result; {} in all but the first of several processes.

    Raises:
        RealMixError: a loss became non-finite, images cannot be read, the disk is full, a process was lost.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; it is saved.
    """
    with _told_how_to_continue(path):
        parts = assemble(spec, None if folder is None else path)
        held = distributed.by_first(lambda: _directory(parts, path, folder, quiet)) or Run(path, parts.record())
        try:
            with _explained(parts, path):
                _train(parts, held, quiet)
            return finish(parts, held) if distributed.rank() == 0 else {}
        finally:
            held.close()


def _directory(parts: Parts, path: Path, folder: Run | None, quiet: bool) -> Run:
    """The run's directory, made with a first checkpoint, or as it was at its checkpoint."""
    state, spec = parts.state, parts.spec
    if folder is None:
        return run_dir.create(path, parts.record(), lambda aside: checkpoint.save(aside, state, spec.identity))
    folder.hold()
    damaged = folder.cut_back(state.step)
    if damaged and not quiet:
        say(f"left out {damaged} damaged line(s) of metrics.jsonl", error=True)
    return folder


def _train(parts: Parts, folder: Run, quiet: bool) -> None:
    """Make the steps that are left, and say what is trained."""
    spec, state, first = parts.spec, parts.state, distributed.rank() == 0
    images, silent = parts.loader.images_per_step, quiet or not first
    with (
        Console(spec.run.steps, state.step, images, silent, partial(estimate, spec)) as console,
        contextlib.ExitStack() as stack,
    ):
        curves = boards.Curves(folder, state.step, spec.run) if first and boards.wanted(spec.run) else None
        if curves is not None:
            stack.callback(curves.close)
        for line in header(spec, parts.loader):
            console.say(line)
        console.say(f"run in  {folder.path}" + (f", continued at step {state.step:,}" if state.step else ""))
        work = loop.train if spec.method.fit is None else fitting.run
        work(parts, Recorder(parts, folder, console, curves))


@contextlib.contextmanager
def _told_how_to_continue(path: Path) -> Iterator[None]:
    """Whatever interrupts a run that has a directory says how it goes on."""
    with interrupts.hinted(lambda: how_to_continue(path) if path.exists() else ""):
        try:
            yield
        except Interrupted as stopped:
            if path.exists():
                stopped.hint = how_to_continue(path)
            raise


@contextlib.contextmanager
def _explained(parts: Parts, path: Path) -> Iterator[None]:
    """What can end the training of any run, as one clear error."""
    try:
        yield
    except Interrupted as stopped:
        if distributed.rank() != 0:  # the first process says it for all
            raise SystemExit(stopped.exit_code) from None
        raise
    except KeyboardInterrupt:  # a second one, without a command line
        raise Interrupted("interrupted") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = f"free some space, then {how_to_continue(path)}"
        raise ResourceError(f"the disk that holds '{path}' is full", hint=hint) from None
    except RuntimeError as error:
        if not distributed.is_lost_process(error):
            raise
        raise RealMixError(
            f"another process of this run ended by step {parts.state.step}",
            "the processes cannot go on without it",
            f"{how_to_continue(path)}, under torchrun as before",
        ) from None


def open_split(path: str | Location | SplitStore, embeddings: str | None = None) -> SplitStore:
    """Open the store to train from, if it is not open already; with `embeddings`, to read those of its images.

    Raises:
        StoreError: it is no store, or a dataset store, which does not say which images are labelled.
    """
    store = path if isinstance(path, SplitStore) else open_store(path)
    if isinstance(store, SplitStore):
        if embeddings is None or isinstance(store, EmbeddedSplit):
            return store
        return EmbeddedSplit(store, embeddings)
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
    )


def family(store: SplitStore) -> str | None:
    """Dataset family that the presets know, from the dataset store's manifest ("cifar10", "svhn", …)."""
    return ON_EMBEDDINGS if isinstance(store, EmbeddedSplit) else store.dataset.manifest.get("protocol")
