"""The directory of a new run that was given no name: STORE_METHOD_sSEED, and what is different if that is taken."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stores.errors import RealMixError
from stores.format import names
from trainer import config
from trainer.runs import checkpoint, weights
from trainer.runs.record import Spec
from trainer.runs.run_dir import open_run

MOST = 4  # settings that a name says


def choose(runs: Path, spec: Spec, asked: Collection[str]) -> Path:
    """The directory of a run, which exists if the same run has been begun before.

    Args:
        runs: folder for it.
        spec: the run.
        asked: names of the settings that the user gave; those that only follow from them are not worth a name.
    """
    run = spec.run
    first = runs / f"{names.derive(spec.store.name)}_{run.method}_s{run.seed}"
    try:
        record = open_run(first).config
    except RealMixError:  # nothing, or nothing that can be compared
        return first
    differing = _differing(checkpoint.identity(record), spec.identity)
    said = {name: value for name, value in differing.items() if name in asked} or differing
    if not said:
        return first
    words = [f"{name}-{_word(value)}" for name, value in list(said.items())[:MOST]]
    return runs / names.derive("_".join([first.name, *words]))


def _differing(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What the second run has otherwise than the first, but for what changes only how it is executed."""
    found: dict[str, Any] = {}
    for part in ("run", "settings"):
        values = config.without(own[part], "incidental") if part == "run" else own[part]
        found |= {name: value for name, value in values.items() if theirs[part].get(name, value) != value}
    if (length := found.pop("schedule_steps", None)) is not None:
        found = {"steps": length} | found
    if theirs["store"] != own["store"]:
        found["store"] = own["store"][:8]
    return found


def _word(value: Any) -> str:
    """A value as a part of a name: of a path, the run or the file."""
    if isinstance(value, str) and "/" in value:
        path = Path(value)
        return path.parent.name if path.name == weights.FILE else path.stem
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
