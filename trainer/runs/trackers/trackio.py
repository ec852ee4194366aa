"""Trackio: its local database, or the Space or server that its own variables name."""

from __future__ import annotations

import contextlib
import importlib
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.runs.trackers import identity


class Trackio:
    """A run of the project "realmix"; a resumed run continues it.

    Trackio knows a run by its name alone, and runs in two folders may have the same: six digits tell them apart.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self._trackio = importlib.import_module("trackio")
        name = identity.kept(folder / "trackio.id", lambda: f"{folder.name}-{uuid.uuid4().hex[:6]}")
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            self._run = self._trackio.init(
                project="realmix", name=name, resume="allow", config=identity.flat(record), embed=False
            )

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, pixels: np.ndarray, step: int, legend: str = "") -> None:
        self._run.log({name: self._trackio.Image(pixels, caption=legend or None)}, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()  # the run's own would be called again at exit
