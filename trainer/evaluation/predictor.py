"""What a method's hook sees: the outputs of the averaged network for plain images of the run; see `contract.Predictor`.

Images are read in chunks, so memory does not grow with the number of images. A bounded sample of them is kept between
two calls, because reading it from the store takes longer than predicting it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from networks.embedded.linear import OnEmbeddings
from stores import SplitStore
from trainer.data.embedded import samples_of
from trainer.evaluation.evaluator import BATCH, Evaluator

MEMORY = 128 << 20  # bytes of the images of one sample
Chunks = Iterator[tuple[np.ndarray, dict[str, Tensor]]]


class PoolPredictor:
    """Predicts images of a run with `evaluator.model`, which whoever calls the hook makes the averaged network.

    Args:
        store: where the images are.
        rows: int64 [N_u], the run's unlabelled index array: rows of the dataset store.
        evaluator: owns the network in evaluation mode.
        steps: length of the run in updates.
    """

    def __init__(self, store: SplitStore, rows: np.ndarray, evaluator: Evaluator, steps: int) -> None:
        samples = samples_of(store)
        self._images = samples.train
        self._labeled, self._unlabeled, self._valid = store.labeled, rows, store.valid
        self._labels = store.train_labels[store.labeled]
        self.evaluator = evaluator
        self._fitting = MEMORY // samples.nbytes
        self._kept: dict[tuple[str, int], tuple[np.ndarray, Tensor]] = {}
        self.step, self.steps, self.num_classes = 0, steps, store.num_classes
        self.frozen = isinstance(evaluator.model, OnEmbeddings)

    @property
    def labels(self) -> np.ndarray:
        """Classes of the labelled images, int64 [n] in [0, K), by their positions in the labelled set."""
        return self._labels

    def labeled(self, *heads: str, most: int | None = None) -> Chunks:
        """Outputs for the labelled images, each once."""
        return self._outputs("labeled", np.unique(self._labeled, return_index=True)[1], self._labeled, heads, most)

    def valid(self, *heads: str) -> Chunks:
        """Outputs for the validation images."""
        return self._outputs("valid", np.arange(len(self._valid)), self._valid, heads, None)

    def unlabeled(self, *heads: str, most: int | None = None, without_labeled: bool = False) -> Chunks:
        """Outputs for the unlabelled images."""
        positions = np.arange(len(self._unlabeled))
        if without_labeled:
            positions = np.flatnonzero(~np.isin(self._unlabeled, self._labeled))
        kind = "others" if without_labeled else "unlabeled"
        return self._outputs(kind, positions, self._unlabeled, heads, most)

    def _outputs(
        self, kind: str, positions: np.ndarray, rows: np.ndarray, heads: tuple[str, ...], most: int | None
    ) -> Chunks:
        """Yields one chunk at least, an empty one if there are no images."""
        if most is not None:
            chosen, images = self._sample(kind, positions, rows, min(most, self._fitting))
            yield chosen, self.evaluator.outputs(images, heads)
            return
        for start in range(0, max(len(positions), 1), BATCH):
            chunk = positions[start : start + BATCH]
            yield chunk, self.evaluator.outputs(torch.from_numpy(self._images.read(rows[chunk])), heads)

    def _sample(self, kind: str, positions: np.ndarray, rows: np.ndarray, most: int) -> tuple[np.ndarray, Tensor]:
        """Evenly spread positions and their images, uint8 [n, H, W, 3]; read once."""
        if (kind, most) not in self._kept:
            spread = np.linspace(0, len(positions) - 1, min(len(positions), most)).astype(np.int64)
            chosen = positions[spread]
            self._kept[kind, most] = chosen, torch.from_numpy(self._images.read(rows[chosen]))
        return self._kept[kind, most]
