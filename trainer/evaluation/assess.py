"""Assesses a trained network on a store: errors by class, calibration, and detection of foreign images.

It is deterministic: the end of a run and `realmix-train eval` give the same numbers for the same weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stores import SplitStore
from stores.errors import IntegrityError
from trainer.data.embedded import samples_of
from trainer.evaluation import scores
from trainer.evaluation.evaluator import Evaluator, confusion_matrix, error, per_class_error

FOREIGN_SAMPLE = 10_000  # unlabelled images that the out-of-distribution score is measured on, at most


def assess(evaluator: Evaluator, store: SplitStore) -> dict[str, Any]:
    """Assess the network `evaluator.model`.

    Returns:
        test_error: per cent; test_images: their number; valid_error: per cent, None without a validation set
        per_class_error, confusion: int [K][K], of the test images
        calibration: see `scores.calibration`
        detection: how the score 1 − max p tells foreign from known unlabelled images, on mismatch stores (None
            elsewhere): auroc, None if either is missing; known, foreign, their numbers; known_bins, foreign_bins,
            histograms of max p.
    """
    logits, labels = evaluator.held_out("test")
    confusion = confusion_matrix(logits.argmax(1), labels, store.num_classes)
    return {
        "test_error": error(confusion),
        "test_images": len(labels),
        "valid_error": _error(*evaluator.held_out("valid"), store.num_classes),
        "per_class_error": per_class_error(confusion, store.class_names),
        "confusion": confusion.tolist(),
        "calibration": scores.calibration(probabilities(logits), labels.numpy()),
        "detection": _foreign(evaluator, store) if store.protocol == "mismatch" and len(store.unlabeled) else None,
    }


def _error(logits: Tensor, labels: Tensor, num_classes: int) -> float | None:
    return error(confusion_matrix(logits.argmax(1), labels, num_classes)) if len(labels) else None


def probabilities(logits: Tensor) -> np.ndarray:
    """float64 [n, K] on the host.

    Raises:
        IntegrityError: they are not finite, which happens with finite but very large weights.
    """
    probs = torch.softmax(logits.to("cpu", torch.float64), 1).numpy()
    if not np.isfinite(probs).all():
        raise IntegrityError("the network's answers are no numbers", "its weights are too large", "train it again")
    return probs


def _foreign(evaluator: Evaluator, store: SplitStore) -> dict[str, Any]:
    """Known and foreign unlabelled images, an evenly spread sample if there are many."""
    rows = np.sort(store.unlabeled)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), FOREIGN_SAMPLE)).astype(np.int64)]
    foreign = store.train_labels[rows] < 0
    logits = evaluator.logits(torch.from_numpy(samples_of(store).train.read(rows)))
    score = scores.ood_score(probabilities(logits))
    return {
        "auroc": scores.auroc(score, foreign),
        "known": int((~foreign).sum()),
        "foreign": int(foreign.sum()),
        "known_bins": scores.histogram(1 - score[~foreign]),
        "foreign_bins": scores.histogram(1 - score[foreign]),
    }
