"""Training from Python: what `realmix-train` does, with the same settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from stores import SplitStore
from stores.embeddings import EmbeddingStore
from stores.errors import RealMixError
from trainer import api
from trainer.inference.model import HasPath, Images, Model, Predictions, load_model


@dataclass(frozen=True)
class Run:
    """A run that has finished.

    Attributes:
        path: its directory, which holds everything that is needed to understand, repeat and use it.
        result: content of its result.json; {} in all but the first of several processes.
    """

    path: Path
    result: dict[str, Any]

    @property
    def error(self) -> float:
        """Per cent of the test images that the averaged weights take for another class, at the last step."""
        return float(self.result["error_last"])


def train(
    store: str | PathLike[str] | SplitStore,
    method: str = "realmix",
    *,
    steps: int | None = None,
    model: str | None = None,
    seed: int | None = None,
    runs: str | PathLike[str] = "runs",
    name: str | None = None,
    quiet: bool = False,
    **settings: object,
) -> Run:
    """Train a network from a split store.

        >>> run = train(built.splits[0], "supervised", steps=20, model="wrn-10-1", batch=8, runs=folder, quiet=True)
        >>> 0 <= run.error <= 100
        True

    Args:
        store: a split store, or where it is: a folder, or "s3://bucket/…".
        method: one of `list_methods`.
        steps: updates; None: 500,000, the papers'.
        model: network; None: "wrn-28-2", from 64 pixels a side on "wrn-37-2", the papers'.
        seed: of the initial weights, the order and every draw; None: 1.
        runs: folder that holds the runs.
        name: of this run's directory; None: STORE_METHOD_sSEED.
        quiet: show no progress.
        settings: any other setting, of the run (`batch=32`, `embeddings="lite0"`) or of the method (`gamma="auto"`), by
            its name, or those of a component together (`optim={"lr": 0.01}`); `realmix-train methods METHOD` lists
            them.

    Raises:
        UsageError: a setting is unknown or wrong, or the run's directory exists.
        StoreError: there is no such store, or it lacks what the method needs.
        RealMixError: a loss became non-finite, images cannot be read, the disk or the memory is full.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; it is saved, and `resume` continues. Like KeyboardInterrupt, it is no
            Exception.
    """
    flags = by_name(settings) | {"method": method, "steps": steps, "model": model, "seed": seed}
    place = store if isinstance(store, SplitStore) else _text(store)
    with _no_exit():
        return Run(*api.train([], {**flags, "store": place}, Path(runs), name, quiet))


def resume(
    run: str | PathLike[str] | HasPath,
    *,
    steps: int | None = None,
    store: str | PathLike[str] | None = None,
    quiet: bool = False,
) -> Run:
    """Continue a run that was interrupted, bit for bit on a CPU, or make one longer; a finished one is given as it is.

        >>> resume(run.path).error == run.error
        True

    Args:
        run: its directory.
        steps: of the whole run; None: as many as it has. Schedules stay where the shorter run's ended.
        store: where its store is now, if it moved.
        quiet: show no progress.

    Raises:
        StoreError: it is no run, another process is training it, or its store is another one.
        UsageError: it has more steps than `steps`.
        RealMixError, Interrupted: as `train`.
    """
    path = Path(run) if isinstance(run, str | PathLike) else run.path
    with _no_exit():
        return Run(*api.resume(path, None if store is None else _text(store), quiet, steps))


def predict(run: str | PathLike[str] | HasPath | Model, images: Images, device: str = "auto") -> Predictions:
    """`load_model(run, device).predict(images)`.

    >>> predict(run, test_images[:2]).labels.shape
    (2,)
    """
    return (run if isinstance(run, Model) else load_model(run, device)).predict(images)


def by_name(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings by name, those of a component as `component.name`, embeddings that are open by theirs."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": one for name, one in value.items()}
        else:
            flat[key] = value.name if isinstance(value, EmbeddingStore) else value
    return flat


def _text(place: str | PathLike[str]) -> str:
    return place if isinstance(place, str) else str(Path(place))


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
    """A process that is not the first of a run ends when that fails; a caller of Python code gets an error instead."""
    try:
        yield
    except SystemExit as end:
        raise RealMixError("the first process of this run ended", f"with exit code {end.code}") from None
