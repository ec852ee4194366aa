"""Scores that say how foreign an image looks, from a network's logits or features; high means foreign.

They are what `realmix-train eval` holds the default against, `trainer.evaluation.foreign`. All take and give float64.
"""

from __future__ import annotations

import numpy as np

SHRINK = 0.1  # of the covariance towards a multiple of the identity


def one_minus_confidence(logits: np.ndarray) -> np.ndarray:
    """1 − the largest probability (Hendrycks & Gimpel 2017): logits [n, K] to [n] in [0, 1 − 1/K]."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    score: np.ndarray = 1 - 1 / shifted.sum(1)
    return score


def max_logit(logits: np.ndarray) -> np.ndarray:
    """−max z (Hendrycks et al. 2022): logits [n, K] to [n]."""
    score: np.ndarray = -logits.max(1)
    return score


def energy(logits: np.ndarray) -> np.ndarray:
    """−log Σ exp z, the free energy at T = 1 (Liu et al. 2020, equation 4): logits [n, K] to [n]."""
    most = logits.max(1)
    score: np.ndarray = -most - np.log(np.exp(logits - most[:, None]).sum(1))
    return score


def centre(features: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 − the cosine to the nearest class's mean (Snell et al. 2017's prototypes).

    Args:
        features: [n, D], to score.
        x: [m, D], features of labelled images, m > 0; y: int64 [m], their classes.

    Returns:
        [n] in [0, 2].
    """
    means = np.stack([unit(x)[y == label].mean(0) for label in np.unique(y)])
    score: np.ndarray = 1 - (unit(features) @ unit(means).T).max(1)
    return score


def mahalanobis(features: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance to the nearest class's mean, with one covariance for all (Lee et al. 2018, § 2.1).

    The covariance is shrunk by a tenth towards the identity times its mean variance: there are fewer labelled images
    than features. Arguments as of `centre`.
    """
    labels, place = np.unique(y, return_inverse=True)
    means = np.stack([x[place == i].mean(0) for i in range(len(labels))])
    apart = x - means[place]
    # The covariance in the span of the deviations, of at most m dimensions; beside it every direction has one variance.
    _, spread, axes = np.linalg.svd(apart, full_matrices=False)
    variance = spread**2 / len(x)
    floor = SHRINK * (variance.sum() / x.shape[1] or 1.0)
    along = 1 / ((1 - SHRINK) * variance + floor)
    distances = []
    for mean in means:
        away = features - mean
        inside = away @ axes.T
        distances.append((np.square(away).sum(1) - np.square(inside).sum(1)) / floor + np.square(inside) @ along)
    score: np.ndarray = np.min(distances, 0)
    return score


def nearest(features: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 − the cosine to the nearest labelled image, x [m, D] (Sun et al. 2022, with k = 1 for few labels): [n]."""
    score: np.ndarray = 1 - (unit(features) @ unit(x).T).max(1)
    return score


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [n, D] scaled to length 1; zeros stay zeros."""
    scaled: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return scaled
