"""How foreign any image looks to a finished run: what `judge` has found of its pool, kept beside the weights.

`foreign.safetensors`, about a megabyte, is written at the end of a run and by `export`, so that `predict` scores
photographs without the store. It holds the places of walks (`trainer.functional.walks`) and, of features that were
trained, a direction and quantiles of both scores over the pool, by which they become ranks. Like the weights it proves
itself by its metadata's `sha256`; `model` there is that of the weights whose features it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stores.storage.location import sha256_of
from trainer.functional.scorer import LEVELS, Scorer
from trainer.functional.walks import Places
from trainer.runs import weights
from trainer.runs.run_dir import damaged, open_run

FILE = "foreign.safetensors"
_PLACES = ("centre", "axes", "at", "reach", "scores")


def save(folder: Path, scorer: Scorer) -> None:
    """Write `scorer` to `folder`, beside the weights that are there, atomically."""
    arrays = {name: getattr(scorer.places, name) for name in _PLACES}
    if scorer.away is not None and scorer.levels is not None:
        arrays |= {"away": scorer.away, "levels": scorer.levels}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in arrays.items()}
    weights.write(folder / FILE, tensors, {"model": sha256_of(folder / weights.FILE)[1]})


def find(path: Path) -> Scorer | None:
    """The scorer beside a file of weights; None if there is none, as in runs of early versions.

    Args:
        path: a run's folder, an export of one, or its model.safetensors.

    Raises:
        IntegrityError: it is damaged, or was saved with other weights.
    """
    model = path / weights.FILE if path.is_dir() else path
    file = model.parent / FILE
    if not file.exists() or not model.exists():
        return None
    if (model.parent / "config.json").is_file():
        open_run(model.parent).require_own(FILE)
    content = weights.read(file)
    if wrong := _wrong(content.tensors):
        raise damaged(file, f"wrong or missing: {', '.join(wrong)}")
    if content.metadata.get("model") != sha256_of(model)[1]:
        raise damaged(file, f"it was not saved with '{model.name}'")
    arrays = {name: tensor.double().numpy() for name, tensor in content.tensors.items()}
    return Scorer(Places(*(arrays[name] for name in _PLACES)), arrays.get("away"), arrays.get("levels"))


def _wrong(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are missing or do not fit the others."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.is_floating_point()}
    if len(found.get("axes", ())) != 2 or len(found.get("at", ())) != 2 or not found["at"][0]:
        return ["axes", "at"]
    (width, components), count = found["axes"], found["at"][0]
    expected = {"centre": (width,), "axes": (width, components), "at": (count, components)}
    expected |= {"reach": (count,), "scores": (count,)}
    if found.keys() != expected.keys():
        expected |= {"away": (width,), "levels": (2, LEVELS)}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
