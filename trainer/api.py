"""A run from its settings, or from its checkpoint, to its result.

    configure   settings and a store to a `Spec`: every choice is made, nothing is built or written
    execute     a `Spec` to a result in a run's directory
    train       a new run, from what a command line or a caller says
    resume      a run that has a directory, from its checkpoint

A new run is checked completely before its directory appears; a resumed one takes every setting from its directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from networks.hardware import kind
from stores import SplitStore
from stores.errors import Interrupted, RealMixError, ResourceError, StoreError, UsageError
from stores.format import names
from stores.system import interrupts
from stores.system.text import say
from trainer import config, distributed, hardware
from trainer.config import Resolved, RunConfig, cpu
from trainer.contract import Options
from trainer.data.embedded import EmbeddedSplit
from trainer.data.placement import place
from trainer.data.split import family, open_split
from trainer.loop import fitting, loop
from trainer.loop.assemble import assemble, require_trainable
from trainer.loop.finish import finish
from trainer.loop.pace import estimate
from trainer.loop.parts import Parts
from trainer.loop.recorder import Recorder
from trainer.methods import load_method
from trainer.runs import checkpoint, longer, naming, run_dir, transfer
from trainer.runs.console import Console, header
from trainer.runs.record import Spec
from trainer.runs.run_dir import Run, how_to_continue
from trainer.runs.trackers import curves as boards


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
