"""Metrics of probabilities and scores: calibration (Guo et al. 2017), AUROC and FPR@95, in float64 NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

ECE_BINS = 15  # Guo et al.
HISTOGRAM_BINS = 20


def calibration(probs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Reliability in equal bins (i/15, (i+1)/15] of the largest probability.

    Args:
        probs: float64 [n, K], n > 0.
        labels: int64 [n].

    Returns:
        ece: mean over images of |accuracy − confidence| of the image's bin, in [0, 1]
        nll: mean of −ln p(true class)
        confidence: mean largest probability
        bins: one {"count", "confidence", "accuracy"} each; the last two are means over the bin, None if it is empty.
    """
    confidence, right = probs.max(1), probs.argmax(1) == labels
    place = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    count, sure, true = (
        np.bincount(place, weights, ECE_BINS) for weights in (np.ones(len(labels)), confidence, right.astype(float))
    )
    bins = [
        {"count": int(n), "confidence": s / n if n else None, "accuracy": t / n if n else None}
        for n, s, t in zip(count.tolist(), sure.tolist(), true.tolist(), strict=True)
    ]
    true_probs = probs[np.arange(len(labels)), labels]
    return {
        "ece": float(np.abs(true - sure).sum() / len(labels)),
        "nll": float(-np.log(np.maximum(true_probs, np.finfo(np.float64).tiny)).mean()),
        "confidence": float(confidence.mean()),
        "bins": bins,
    }


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted as half.

    Args:
        scores: [n]; positive: bool [n].

    Returns:
        In [0, 1]; None where one of the groups is empty.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, group, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[group]  # the mean rank of equal scores, from 1
    above = rank[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def fpr95(scores: np.ndarray, foreign: np.ndarray) -> float | None:
    """FPR@95TPR: the share of the foreign images that pass for known where 95 % of the known ones pass.

    Known images are the positives, as in Hendrycks & Gimpel 2017 and its followers. With ties they pass together: the
    threshold is the ⌈0.95 n⌉-th smallest score of the n known ones, and what scores no higher passes.

    Args:
        scores: [n], high means foreign; foreign: bool [n].

    Returns:
        In [0, 1], the less the better; None where one of the groups is empty.
    """
    known = np.sort(scores[~foreign])
    if not len(known) or not foreign.any():
        return None
    return float((scores[foreign] <= known[math.ceil(0.95 * len(known)) - 1]).mean())


def histogram(values: np.ndarray) -> list[int]:
    """Counts in 20 equal bins of [0, 1]; 1 belongs to the last."""
    return np.histogram(values, HISTOGRAM_BINS, (0, 1))[0].tolist()
