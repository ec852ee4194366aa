"""Evaluation: averaged weights with the live BatchNorm statistics, on the test set and any validation set.

Three numbers describe a run, because papers differ in which they quote: the last evaluation, the median of the last 20
(MixMatch, RealMix), and the test error where the validation error was lowest (Oliver et al. 2018). The live weights can
be looked at beside the averaged ones; they decide nothing. Nothing here trains.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stores import ImageArray, SplitStore
from stores.errors import StoreError
from trainer.augment.flip_shift import scale
from trainer.networks.ema import Ema
from trainer.networks.wide_resnet import WideResNet

BATCH = 500
MEDIAN_OF = 20


class Evaluator:
    """Held-out images on the device, and the network that sees them: a copy, for the live one never leaves training."""

    def __init__(self, store: SplitStore, model: WideResNet, device: torch.device, bf16: bool) -> None:
        dataset = store.dataset
        self._num_classes, self._device, self._bf16 = store.num_classes, device, bf16
        self._test = self._load(dataset.test_images, store.test, store.test_labels)
        self._valid = self._load(dataset.train_images, store.valid, store.train_labels)
        if self._test is None:
            raise StoreError(f"'{store.path}' has no test images")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def run(self, ema: Ema, raw: bool = False) -> tuple[dict[str, float], Tensor]:
        """Evaluate the averaged weights, which stay in `self.model`.

        Args:
            raw: evaluate the live weights too, which takes as long again.

        Returns:
            {"test_error": per cent, "valid_error": per cent, if there is a validation set}, with `raw` also
            "raw_test_error" and "raw_valid_error", of the live weights
            test confusion matrix, int64 [K, K] on the host: rows are true classes, columns predicted ones.
        """
        live: dict[str, float] = {}
        if raw:
            self.model.load_state_dict(ema.model.state_dict())
            live = {f"raw_{name}": value for name, value in self._errors()[0].items()}
        ema.apply_to(self.model)
        errors, confusion = self._errors()
        return errors | live, confusion

    def held_out(self, part: Literal["test", "valid"]) -> tuple[Tensor, Tensor]:
        """What `self.model` says of those images: float32 [n, K], and their classes int64 [n]; both on the host."""
        held = self._test if part == "test" else self._valid
        if held is None:
            return torch.empty(0, self._num_classes), torch.empty(0, dtype=torch.int64)
        return self.logits(held[0]).cpu(), held[1].cpu()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """What `self.model` says of uint8 [n, H, W, 3] images: float32 [n, K] on the device."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            parts = [self.model(scale(part.to(self._device))) for part in images.split(BATCH)]
        return torch.cat(parts)

    @torch.no_grad()
    def outputs(self, images: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of `self.model` by name for uint8 [n, H, W, 3] images: float32 [n, …] on the host."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            parts = [self.model(scale(part.to(self._device)), heads=heads) for part in images.split(BATCH)]
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in heads}

    def _errors(self) -> tuple[dict[str, float], Tensor]:
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

    def _confusion(self, images: Tensor, labels: Tensor) -> Tensor:
        return confusion_matrix(self.logits(images).argmax(1), labels, self._num_classes)


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [K, K] on the host from int64 [n] twice: rows are true classes, columns predicted ones."""
    cells = labels * num_classes + predicted
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, -1).cpu()


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
        best_step (both None without a validation set); evaluations, their number; raw_error_last, of the live weights
        (None unless the last evaluation looked at them).
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
        "raw_error_last": history[-1].get("raw_test_error"),
        "evaluations": len(history),
    }
