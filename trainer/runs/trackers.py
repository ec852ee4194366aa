"""Where a run's curves and pictures go beside its own files: TensorBoard by default, Weights & Biases on request.

Both get every number of metrics.jsonl, the first and the last batch as the network saw it, and the confusion matrix of
every evaluation. wandb is imported when a run asks for it and never otherwise. Nothing here reads a tensor of the step.
"""

from __future__ import annotations

import importlib
import importlib.util
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from stores.errors import RealMixError, UsageError
from stores.format import manifest
from trainer.config.run import Log
from trainer.contract import Batch
from trainer.runs import png
from trainer.runs.run_dir import Run

NOT_CURVES = ("kind", "step")
COLUMNS = 16  # samples of a batch that are shown
CELL = 64  # side in pixels that small images are magnified to, by a whole factor
GAP, GREY = 2, 128
RAMP = ((247, 247, 245), (10, 92, 158))  # colours of 0 and 1


class Board(Protocol):
    """A place for curves and pictures."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name."""

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """uint8 [H, W, 3]."""

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
        self._boards: list[Board] = []
        if log.tensorboard:
            self._boards.append(TensorBoard(folder.path / "tensorboard", start))
        if log.wandb:
            self._boards.append(WeightsAndBiases(folder.path, folder.config))

    def add(self, record: Mapping[str, Any]) -> None:
        """Every number of a line of metrics.jsonl, under its kind."""
        values = {f"{record['kind']}/{name}": value for name, value in record.items() if name not in NOT_CURVES}
        for board in self._boards:
            board.numbers(values, record["step"])

    def batch(self, batch: Batch, step: int) -> None:
        """The views of a batch's first samples: a row a view, a column a sample."""
        if not self._boards or batch.x.dim() == 2:  # embeddings are no pictures
            return
        labeled = [batch.x] if batch.probe is None else [batch.x, batch.probe]
        for name, views in (("labeled", labeled), ("unlabeled", list(batch.u))):
            if views:
                self._picture(f"batch/{name}", grid(views), step)

    def confusion(self, matrix: Tensor, step: int) -> None:
        """Rows are true classes, columns predicted ones; colour is the share of the row."""
        self._picture("eval/confusion", heat_map(matrix.numpy()), step)

    def close(self) -> None:
        for board in self._boards:
            board.close()

    def _picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        for board in self._boards:
            board.picture(name, pixels, step)


class TensorBoard:
    """Event files in `folder`."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # add_image would need Pillow

        height, width, _ = pixels.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.encode(pixels))
        assert self._writer.file_writer is not None, "open until `close`"
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project "realmix" under the run's own name; a resumed run continues it.

    Raises:
        RealMixError: wandb refuses, for example because nobody is logged in.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        name_file = folder / "wandb.id"
        if not name_file.is_file():
            manifest.write_atomically(name_file, uuid.uuid4().hex.encode())
        try:
            self._run = self._wandb.init(
                project="realmix",
                name=folder.name,
                id=name_file.read_text(),
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

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._run.log({"step": step, name: self._wandb.Image(pixels)})

    def close(self) -> None:
        self._run.finish()


def require(log: Log) -> None:
    """Raises UsageError if the run asks for wandb and it is not installed."""
    if log.wandb and importlib.util.find_spec("wandb") is None:
        raise UsageError("--wandb needs the package wandb", "it is not installed", "pip install 'realmix[wandb]'")


def grid(views: Sequence[Tensor]) -> np.ndarray:
    """Rows of images: uint8 [H, W, 3] from one float [n, 3, h, w] in [−1, 1] a row, the first 16 of each."""
    rows = []
    for view in views:
        pixels = view[:COLUMNS].detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()
        rows.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
    height, width = rows[0].shape[1:3]
    scale = max(1, CELL // max(height, width))
    cell_height, cell_width = height * scale + GAP, width * scale + GAP
    sheet = np.full((cell_height * len(rows) + GAP, cell_width * len(rows[0]) + GAP, 3), GREY, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * cell_height + GAP, j * cell_width + GAP
            large = image.repeat(scale, 0).repeat(scale, 1)
            sheet[top : top + height * scale, left : left + width * scale] = large
    return sheet


def heat_map(confusion: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] from int [K, K]: a square a cell, its colour between pale (0) and blue (the whole row)."""
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    low, high = (np.array(color, np.float64) for color in RAMP)
    cells: np.ndarray = (low + share[..., None] * (high - low)).round().astype(np.uint8)
    side = max(4, min(32, 640 // len(confusion)))
    return cells.repeat(side, 0).repeat(side, 1)
