"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stores.system.text import markdown
from trainer.runs import png


class TensorBoard:
    """Event files in a run's folder, so that the run has its own name; where an earlier version had them, if there."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        before = folder / "tensorboard"
        self._writer = SummaryWriter(
            str(before if before.is_dir() else folder), purge_step=start + 1 if start else None
        )

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: np.ndarray, step: int, legend: str = "") -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # add_image would need Pillow

        height, width, _ = pixels.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.encode(pixels))
        assert self._writer.file_writer is not None, "open until `close`"
        shown = Summary.Value(tag=name, image=image, metadata=SummaryMetadata(summary_description=markdown(legend)))
        self._writer.file_writer.add_summary(Summary(value=[shown]), step)

    def close(self) -> None:
        self._writer.close()
