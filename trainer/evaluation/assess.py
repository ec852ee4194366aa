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
from trainer.contract import Method
from trainer.evaluation import foreign, open_set, outcomes, scores
from trainer.evaluation.evaluator import Evaluator, confusion_matrix, error, per_class_error
from trainer.evaluation.foreign import Judged
from trainer.evaluation.outcomes import Outcomes
from trainer.functional import ood_scores


def assess(
    evaluator: Evaluator,
    store: SplitStore,
    judged: Judged | None,
    method: Method | None = None,
    tested: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Any]:
    """Assess the network `evaluator.model`.

    Args:
        judged: unlabelled images of the store, all or some, by the same network.
        method: that the network's heads are of; None: they are not there.
        tested: what `evaluator.held_out("test")` gave, if that is known.

    Returns:
        test_error: per cent; test_images: their number; valid_error: per cent, None without a validation set
        per_class_error, confusion: int [K][K], of the test images
        calibration: see `scores.calibration`
        foreign: what is estimated of the judged images: share, None where the labels cannot tell; interval; images,
            their number; features, "frozen" or "trained".
        detection: how the default score tells foreign from known judged images, on mismatch stores (None elsewhere):
            auroc and fpr95, None if either is missing; confidence, the same of 1 − confidence; known, foreign, their
            numbers; known_bins, foreign_bins, histograms of the score.
        open_set: of all test images, see `open_set.measure`; None where none is foreign.
    """
    logits, labels = tested or evaluator.held_out("test")
    confusion = confusion_matrix(logits.argmax(1), labels, store.num_classes)
    return {
        "test_error": error(confusion),
        "test_images": len(labels),
        "valid_error": _error(*evaluator.held_out("valid"), store.num_classes),
        "per_class_error": per_class_error(confusion, store.class_names),
        "confusion": confusion.tolist(),
        "calibration": scores.calibration(probabilities(logits), labels.numpy()),
        "foreign": None if judged is None else _estimated(judged),
        "detection": None if judged is None or store.protocol != "mismatch" else _detected(judged, store),
        "open_set": open_set.measure(evaluator, store, method, None if judged is None else judged.scorer),
    }


def outcomes_of(tested: tuple[Tensor, Tensor], store: SplitStore, judged: Judged | None) -> Outcomes:
    """What the network says of each test image, and of those unlabelled images that were judged."""
    probs, labels = probabilities(tested[0]), tested[1].numpy()
    seen = np.empty(0, np.int64) if judged is None else store.unlabeled[judged.seen.positions]
    empty = np.empty(0)
    return Outcomes(
        test_rows=outcomes.test_rows(store),
        test_labels=labels,
        test_guesses=probs.argmax(1),
        test_confidences=probs.max(1, initial=0),
        pool_rows=seen,
        pool_labels=outcomes.pool_labels(store, seen),
        pool_guesses=empty if judged is None else judged.seen.guesses,
        pool_confidences=empty if judged is None else judged.confidence,
        pool_scores=empty if judged is None else judged.score,
    )


def _estimated(judged: Judged) -> dict[str, Any]:
    return {
        "share": judged.share,
        "interval": None if judged.interval is None else list(judged.interval),
        "images": len(judged.score),
        "features": judged.features,
    }


def is_foreign(judged: Judged, store: SplitStore) -> np.ndarray:
    """Which of the judged images are of no training class, bool [m]; on mismatch stores, which know."""
    found: np.ndarray = store.train_labels[store.unlabeled[judged.seen.positions]] < 0
    return found


def _detected(judged: Judged, store: SplitStore) -> dict[str, Any]:
    foreign_ones, score = is_foreign(judged, store), judged.score
    return {
        **foreign.quality(score, foreign_ones),
        "confidence": foreign.quality(ood_scores.one_minus_confidence(judged.seen.logits), foreign_ones),
        "known": int((~foreign_ones).sum()),
        "foreign": int(foreign_ones.sum()),
        "known_bins": scores.histogram(score[~foreign_ones]),
        "foreign_bins": scores.histogram(score[foreign_ones]),
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
