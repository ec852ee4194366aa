"""Every number and picture of a run, under the names that people look for, on all boards that the run has.

    train/…    losses and what else a step says: means since the last line
    eval/…     errors of every evaluation
    time/…     images a second, the share of the time spent waiting for data, seconds
    foreign/…  what the mask keeps, its precision and recall, the estimated share of foreign images
    batch/…    the first and the last batch as the network saw it

Packages of trackers are imported when a run asks for them and never otherwise. Nothing here reads a tensor of the step.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from stores.errors import UsageError, install
from stores.system.text import visible
from trainer.config.run import Log
from trainer.contract import Batch
from trainer.runs.run_dir import Run
from trainer.runs.trackers import pictures
from trainer.runs.trackers.mlflow import MLflow
from trainer.runs.trackers.tensorboard import TensorBoard
from trainer.runs.trackers.trackio import Trackio
from trainer.runs.trackers.wandb import WeightsAndBiases

EXTRAS = ("wandb", "mlflow", "trackio")  # settings, extras and packages of the same name
NOT_CURVES = ("kind", "step")
TIME = ("images_per_s", "data_wait", "seconds")


class Board(Protocol):
    """A place for curves and pictures."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name."""

    def picture(self, name: str, pixels: np.ndarray, step: int, legend: str = "") -> None:
        """uint8 [H, W, 3], and what it shows."""

    def close(self) -> None:
        """Write what is pending."""


class Curves:
    """All boards of a run.

    Args:
        folder: the run's directory.
        start: updates done before; a resumed run hides what a killed one wrote after them.
        log: which boards there are.
    """

    def __init__(self, folder: Run, start: int, log: Log) -> None:
        makers: dict[str, Callable[[], Board]] = {
            "tensorboard": lambda: TensorBoard(folder.path, start),
            "wandb": lambda: WeightsAndBiases(folder.path, folder.config),
            "mlflow": lambda: MLflow(folder.path, folder.config),
            "trackio": lambda: Trackio(folder.path, folder.config),
        }
        self._boards = [make() for name, make in makers.items() if getattr(log, name)]

    def add(self, record: Mapping[str, Any]) -> None:
        """Every number of a line of metrics.jsonl."""
        values = {curve(record["kind"], name): value for name, value in record.items() if name not in NOT_CURVES}
        for board in self._boards:
            board.numbers(values, record["step"])

    def batch(self, batch: Batch, step: int) -> None:
        """The views of a batch's first samples: a row a view, a column a sample."""
        if not self._boards or batch.x.dim() == 2:  # embeddings are no pictures
            return
        labeled = [batch.x] if batch.probe is None else [batch.x, batch.probe]
        for name, views in (("labeled", labeled), ("unlabeled", list(batch.u))):
            if views:
                self._picture(f"batch/{name}", pictures.grid(views), step)

    def confusion(self, matrix: Tensor, class_names: Sequence[str], step: int) -> None:
        """Rows are true classes, columns predicted ones; colour is the share of the row."""
        names = ", ".join(visible(name) for name in class_names)
        legend = f"rows: true classes, columns: predicted ones, from the top and from the left: {names}"
        self._picture("eval/confusion", pictures.heat_map(matrix.numpy()), step, legend)

    def close(self) -> None:
        for board in self._boards:
            board.close()

    def _picture(self, name: str, pixels: np.ndarray, step: int, legend: str = "") -> None:
        for board in self._boards:
            board.picture(name, pixels, step, legend)


def curve(kind: str, name: str) -> str:
    """The name of a number of metrics.jsonl on a board.

    >>> curve("train", "loss_u"), curve("train", "ood_recall"), curve("eval", "seconds")
    ('train/loss_u', 'foreign/recall', 'time/seconds')
    """
    if name in TIME:
        return f"time/{name}"
    if name.startswith("ood_") or name == "gamma":
        return f"foreign/{name.removeprefix('ood_')}"
    return f"{kind}/{name}"


def wanted(log: Log) -> bool:
    """Whether the run has any board."""
    return any(getattr(log, name) for name in ("tensorboard", *EXTRAS))


def require(log: Log) -> None:
    """Raises UsageError if the run asks for a tracker that is not installed."""
    for name in EXTRAS:
        if getattr(log, name) and importlib.util.find_spec(name) is None:
            raise UsageError(f"--{name} needs the package {name}", "it is not installed", install(name))
