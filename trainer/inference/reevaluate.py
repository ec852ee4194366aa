"""A run, finished or not, evaluated again: averaged and live weights, on its own store or on another one.

The averaged weights give what training reported of them; nothing in the run's folder changes.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from networks import hardware
from networks.head import Head
from stores import SplitStore
from stores.errors import StoreError, UsageError
from stores.storage.bucket import BucketPath
from stores.storage.location import locate
from stores.system.text import spelled
from trainer import config
from trainer.contract import Method, Options
from trainer.data.split import open_split
from trainer.evaluation import foreign
from trainer.evaluation.assess import assess, is_foreign
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictor import PoolPredictor
from trainer.methods import METHODS, load_method
from trainer.runs import checkpoint, weights
from trainer.runs.run_dir import Run, open_run


def _here(path: Path, store: str) -> str:
    """The run's own store, if nobody has to be contacted for it."""
    if isinstance(locate(store), BucketPath):
        raise UsageError(
            f"the store of '{path}' is in object storage",
            "nothing is contacted because a run's record names it",
            f"`realmix-train eval {path} --store {store}`",
        )
    return store


def opened(path: Path, store_path: str | None) -> tuple[Run, SplitStore]:
    """A run, and the split store to ask about: the run's own unless another is named.

    Raises:
        UsageError: the run's own store is in object storage: a record may name any place, so the user has to.
    """
    run = open_run(path)
    if store_path is None:
        store_path = _here(path, run.config["store"]["path"])
    return run, open_split(store_path, run.config["run"].get("embeddings"))


def require_fitting(trained: weights.Trained, store: SplitStore) -> None:
    """Raises StoreError for a store of other classes or of images of another size than the network's."""
    if trained.class_names != store.class_names:
        both = zip_longest(store.class_names, trained.class_names, fillvalue="none")
        here, there = next(spelled(pair) for pair in both if pair[0] != pair[1])
        raise StoreError(f"'{store.path}' has other classes than the run", f"{here} instead of {there}")
    if trained.image_size != store.dataset.image_size:
        sizes = ["×".join(map(str, size)) for size in (store.dataset.image_size, trained.image_size)]
        raise StoreError(f"'{store.path}' has images of another size", f"{sizes[0]} pixels instead of {sizes[1]}")


def _judging(run: Run) -> tuple[Method | None, tuple[Head, ...]]:
    """The run's method and its heads, if they judge which images are foreign; they are in its checkpoint alone."""
    name = run.config["run"]["method"]
    if name not in METHODS or not (run.path / checkpoint.FILE).is_file():
        return None, ()
    method = load_method(name)
    if method.judge is None:
        return None, ()
    settings: Options = config.load(method.Settings, run.config["settings"], str(run.path / "config.json"))
    return method, method.views(settings).heads


def reevaluate(path: Path, store_path: str | None, device: str) -> dict[str, Any]:
    """Evaluate both kinds of weights, in the arithmetic of the training where this machine has it.

    Args:
        store_path: the split store to ask about; None: the run's own.
        device: "auto", "cpu" or "cuda".

    Returns:
        run, step, store, store_fingerprint; same_store: whether it is the one that the run was trained from; averaged
        and raw: see `assess`, and on mismatch stores `scores`, see `by_score`; raw is None where the checkpoint is
        gone.

    Raises:
        StoreError: the store has other classes or images of another size.
        UsageError: the run's own store is in object storage: a record may name any place, so the user has to.
    """
    run, store = opened(path, store_path)
    kind = hardware.usable(device)
    bf16 = run.config["run"]["precision"] == "bf16" and hardware.multiplies_bf16(kind)
    method, heads = _judging(run)
    found: dict[str, Any] = {"averaged": None, "raw": None}
    for name in found:
        if name == "raw" and not (path / checkpoint.FILE).is_file():
            continue
        trained = weights.of_run(run, averaged=name == "averaged", heads=heads)
        require_fitting(trained, store)
        model = trained.model.to(kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
        evaluator = Evaluator(store, model, torch.device(kind), bf16)
        judged = foreign.judge(PoolPredictor(store, store.unlabeled, evaluator, 0), foreign.SAMPLE)
        found[name] = assess(evaluator, store, judged, method)
        if judged is not None and found[name]["detection"] is not None:
            found[name]["scores"] = foreign.by_score(judged, is_foreign(judged, store))
    result = run.result()
    step = result["steps"] if result is not None else checkpoint.read(path, torch.device("cpu"))["step"]
    same = store.fingerprint == run.config["store"]["fingerprint"]
    return {
        "run": str(path),
        "step": step,
        "store": str(store.path),
        "store_fingerprint": store.fingerprint,
        "same_store": same,
        **found,
    }
