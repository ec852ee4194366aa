"""Evaluates the averaged weights, with the current BatchNorm statistics, on the test set and any validation set.

Three numbers describe a run, because papers quote different ones: the error of the last evaluation, the median of the
last 20 (MixMatch, RealMix), and the test error at the lowest validation error (Oliver et al. 2018). The current weights
can be evaluated as well, for information.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from networks.embedded.linear import OnEmbeddings
from networks.network import Network
from stores import SplitStore
from stores.errors import StoreError
from trainer.augment.views import as_input
from trainer.data.embedded import Readable, samples_of
from trainer.ema import Ema

BATCH = 500
MEDIAN_OF = 20


class Evaluator:
    """Held-out images on the device, and a copy of the network in evaluation mode.

    Args:
        store: where the images are.
        model: the network that is trained; it stays in training mode.
        device: where to evaluate.
        bf16: use bfloat16 autocast.

    Attributes:
        model: the copy.

    Raises:
        StoreError: the store has no test images.
    """

    def __init__(self, store: SplitStore, model: Network, device: torch.device, bf16: bool) -> None:
        samples = samples_of(store)
        self._num_classes, self._device, self._bf16 = store.num_classes, device, bf16
        self._test = self._load(samples.test, store.test, store.test_labels)
        self._valid = self._load(samples.train, store.valid, store.train_labels)
        if self._test is None:
            raise StoreError(f"'{store.path}' has no test images")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def run(self, ema: Ema, raw: bool = False) -> tuple[dict[str, float], Tensor]:
        """Evaluate the averaged weights, which stay in `self.model`.

        Args:
            ema: the averaged weights.
            raw: evaluate the current weights as well.

        Returns:
            errors in per cent: "test_error" and, with a validation set, "valid_error"; with `raw` also
            "raw_test_error" and "raw_valid_error", of the current weights;
            confusion matrix of the test set, int64 [K, K] on the host: rows are true classes, columns predicted ones.
        """
        live: dict[str, float] = {}
        if raw:
            self.model.load_state_dict(ema.model.state_dict())
            live = {f"raw_{name}": value for name, value in self._errors()[0].items()}
        ema.apply_to(self.model)
        errors, confusion = self._errors()
        return errors | live, confusion

    def held_out(self, part: Literal["test", "valid"]) -> tuple[Tensor, Tensor]:
        """Logits of those images, float32 [n, K], and their classes, int64 [n], both on the host."""
        held = self._test if part == "test" else self._valid
        if held is None:
            return torch.empty(0, self._num_classes), torch.empty(0, dtype=torch.int64)
        return self.logits(held[0]).cpu(), held[1].cpu()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits of uint8 [n, H, W, 3] images: float32 [n, K] on the device."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            parts = [self.model(as_input(part.to(self._device))) for part in images.split(BATCH)]
        return torch.cat(parts)

    @torch.no_grad()
    def outputs(self, images: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of `self.model` by name for uint8 [n, H, W, 3] images: float32 [n, …] on the host.

        For standardised embeddings [n, D] the features are these embeddings, not standardised.
        """
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            parts = [self.model(as_input(part.to(self._device)), heads=heads) for part in images.split(BATCH)]
        outputs = {name: torch.cat([part[name] for part in parts]).cpu() for name in heads}
        if "features" in heads and isinstance(self.model, OnEmbeddings):
            outputs["features"] = images * self.model.std.cpu() + self.model.mean.cpu()
        return outputs

    def _errors(self) -> tuple[dict[str, float], Tensor]:
        assert self._test is not None
        confusion = self._confusion(*self._test)
        errors = {"test_error": error(confusion)}
        if self._valid is not None:
            errors["valid_error"] = error(self._confusion(*self._valid))
        return errors, confusion

    def _load(self, array: Readable, rows: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor] | None:
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
    """Error in per cent, from a confusion matrix."""
    total = int(confusion.sum())
    return 100 * (total - int(confusion.trace())) / total


def per_class_error(confusion: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    """Error of each class in per cent; None for a class without images."""
    rows = zip(class_names, confusion, strict=True)
    return {name: 100 * (1 - int(row[i]) / int(row.sum())) if row.sum() else None for i, (name, row) in enumerate(rows)}


def summary(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers that describe a run.

    Args:
        history: the evaluations, in order.

    Returns:
        error_last: test error of the last evaluation.
        error_median20: median test error of the last 20 evaluations, or of all if there are fewer.
        median_of: how many these were.
        error_best_by_valid: test error of the first evaluation with the lowest validation error; None without one.
        best_step: step of that evaluation, or None.
        valid_error_last: validation error of the last evaluation, or None.
        raw_error_last: test error of the current weights in the last evaluation, or None.
        evaluations: number of evaluations.
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
        "valid_error_last": history[-1].get("valid_error"),
        "raw_error_last": history[-1].get("raw_test_error"),
        "evaluations": len(history),
    }
