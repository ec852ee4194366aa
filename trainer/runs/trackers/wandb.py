"""Weights & Biases."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stores.errors import RealMixError
from trainer.runs.trackers import identity


class WeightsAndBiases:
    """A run of the project "realmix" under the run's own name; a resumed run continues it.

    Raises:
        RealMixError: wandb refuses, for example because nobody is logged in.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        try:
            self._run = self._wandb.init(
                project="realmix",
                name=folder.name,
                id=identity.kept(folder / "wandb.id", lambda: uuid.uuid4().hex),
                resume="allow",
                dir=str(folder),
                config=dict(record),
            )
        except self._wandb.Error as error:
            raise RealMixError(
                "Weights & Biases cannot be used",
                str(error),
                f"`wandb login` or WANDB_MODE=offline, then `realmix-train --resume {folder}`",
            ) from None
        # its own counter refuses to go back, as a run does that was killed after its checkpoint
        self._run.define_metric("*", step_metric="step")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def picture(self, name: str, pixels: np.ndarray, step: int, legend: str = "") -> None:
        self._run.log({"step": step, name: self._wandb.Image(pixels, caption=legend or None)})

    def close(self) -> None:
        self._run.finish()
