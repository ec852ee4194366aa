"""Evaluation: averaged weights with the live BatchNorm statistics, on the test set and any validation set.

Three numbers describe a run, because papers differ in which they quote: the last evaluation, the median of the last 20
(MixMatch, RealMix), and the test error where the validation error was lowest (Oliver et al. 2018). Nothing here trains.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stores import ImageArray, SplitStore
from stores.errors import StoreError
from trainer.augment import scale
from trainer.ema import Ema

BATCH = 500
MEDIAN_OF = 20


class Evaluator:
    """Held-out images on the device, and the network that sees them: a copy, for the live one never leaves training."""

    def __init__(self, store: SplitStore, model: nn.Module, device: torch.device, bf16: bool) -> None:
        dataset = store.dataset
        self._num_classes, self._device, self._bf16 = store.num_classes, device, bf16
        self._test = self._load(dataset.test_images, store.test, store.test_labels)
        self._valid = self._load(dataset.train_images, store.valid, store.train_labels)
        if self._test is None:
            raise StoreError(f"'{store.path}' has no test images")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def run(self, ema: Ema) -> tuple[dict[str, float], Tensor]:
        """Evaluate.

        Returns:
            {"test_error": per cent, "valid_error": per cent, if there is a validation set}
            test confusion matrix, int64 [K, K] on the host: rows are true classes, columns predicted ones.
        """
        ema.apply_to(self.model)
        assert self._test is not None
        confusion = self._confusion(*self._test)
        errors = {"test_error": error(confusion)}
        if self._valid is not None:
            errors["valid_error"] = error(self._confusion(*self._valid))
        return errors, confusion

    def _load(self, array: ImageArray, rows: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor] | None:
        rows = rows[labels[rows] >= 0]
        if not len(rows):
            return None
        return torch.from_numpy(array.read(rows)).to(self._device), torch.from_numpy(labels[rows]).to(self._device)

    @torch.no_grad()
    def _confusion(self, images: Tensor, labels: Tensor) -> Tensor:
        predictions = []
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            for part in images.split(BATCH):
                predictions.append(self.model(scale(part)).argmax(1))
        cells = labels * self._num_classes + torch.cat(predictions)
        return torch.bincount(cells, minlength=self._num_classes**2).view(self._num_classes, -1).cpu()


def error(confusion: Tensor) -> float:
    """Per cent of the images that are off the confusion matrix's diagonal."""
    total = int(confusion.sum())
    return 100 * (total - int(confusion.trace())) / total


def per_class_error(confusion: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    """Per cent of each class's images that were taken for another class; None for a class without images."""
    rows = zip(class_names, confusion, strict=True)
    return {name: 100 * (1 - int(row[i]) / int(row.sum())) if row.sum() else None for i, (name, row) in enumerate(rows)}


def summary(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run's three numbers, of evaluations in order of their steps.

    Returns:
        error_last; error_median20, of the last min(20, n) evaluations, their number in median_of;
        error_best_by_valid, the test error of the first evaluation with the lowest validation error, and its step
        best_step (both None without a validation set); evaluations, their number.
    """
    last = [entry["test_error"] for entry in history[-MEDIAN_OF:]]
    validated = [entry for entry in history if "valid_error" in entry]
    best = min(validated, key=lambda entry: entry["valid_error"]) if validated else None
    return {
        "error_last": last[-1],
        "error_median20": statistics.median(last),
        "median_of": len(last),
        "error_best_by_valid": best["test_error"] if best else None,
        "best_step": best["step"] if best else None,
        "evaluations": len(history),
    }
