"""Estimates the share γ of unlabelled images that belong to no training class, from features of both kinds of images.

Confidence cannot tell foreign images from known ones: a network trained on its own sharpened guesses is equally sure of
both. Features can. From the pooled features of plain images under the averaged weights, and the predicted classes c:

 1. Fisher's linear discriminant gives the direction in which unlabelled images differ from labelled ones. The labelled
    images are weighted to have each class as often as the unlabelled ones have it, because a class that is merely rarer
    among these is no mismatch.
 2. F_x and F_u are the shares of the labelled and of the unlabelled images of class c that lie below a threshold t
    along this direction. If a share κ of the unlabelled ones is known, F_u(t) ≥ κ·F_x(t) everywhere, so κ_c is the
    smallest F_u / F_x (Blanchard, Lee & Scott 2010), over thresholds with at least half of the labelled images below.
 3. γ = 1 − Σ_c κ_c · (share of the unlabelled images that are predicted as class c).

Each half of the images chooses the direction for the other half, and γ is the mean of both results. F_u / F_x is taken
two standard errors above its expectation, so that few images give too small a γ rather than too large a one. Labels are
not used. The estimate is too large if the network has memorised the labelled images, which then differ from all others:
0.45 was seen with a supervised network without augmentation. MixUp keeps RealMix from memorising: the estimate was at
most 0.05 after it had seen each of 300 labels 320 times.
"""

from __future__ import annotations

import numpy as np

RIDGE = 0.1  # added to the covariance, of its mean variance
ERRORS = 2  # standard errors


def estimate(x: np.ndarray, classes_x: np.ndarray, u: np.ndarray, classes_u: np.ndarray, num_classes: int) -> float:
    """γ in [0, 1]; 0 where nothing can be said: fewer than 4 images of either kind, or features that are not finite.

    Args:
        x: float64 [n, D], features of labelled images.
        classes_x: int64 [n] in [0, num_classes), their predicted classes.
        u: float64 [m, D], features of unlabelled images.
        classes_u: int64 [m] in [0, num_classes), their predicted classes.
        num_classes: K.
    """
    if min(len(x), len(u)) < 4 or not (np.isfinite(x).all() and np.isfinite(u).all()):
        return 0.0
    known = []
    for half in (0, 1):
        chosen_x, chosen_u = (np.arange(len(rows)) % 2 == half for rows in (x, u))
        w = direction(x[chosen_x], classes_x[chosen_x], u[chosen_u], classes_u[chosen_u], num_classes)
        along_x, along_u, of_x, of_u = x[~chosen_x] @ w, u[~chosen_u] @ w, classes_x[~chosen_x], classes_u[~chosen_u]
        counts = [known_share(along_x[of_x == c], along_u[of_u == c]) * np.sum(of_u == c) for c in range(num_classes)]
        known.append(sum(counts) / len(of_u))
    return max(0.0, 1 - float(np.mean(known)))


def direction(
    x: np.ndarray, classes_x: np.ndarray, u: np.ndarray, classes_u: np.ndarray, num_classes: int
) -> np.ndarray:
    """Fisher's linear discriminant, from labelled to unlabelled images: float64 [D]."""
    count_x, count_u = (np.bincount(classes, minlength=num_classes) for classes in (classes_x, classes_u))
    weight = (count_u / np.maximum(count_x, 1))[classes_x]
    if not weight.any():
        return np.zeros(x.shape[1])
    weight = weight / weight.sum()
    centre_x, centre_u = weight @ x, u.mean(0)
    covariance = ((x - centre_x).T * weight) @ (x - centre_x) + (u - centre_u).T @ (u - centre_u) / len(u)
    variance = np.trace(covariance) / len(covariance)
    if variance == 0:
        return np.zeros(x.shape[1])
    return np.linalg.solve(covariance + RIDGE * variance * np.eye(len(covariance)), centre_u - centre_x)


def known_share(x: np.ndarray, u: np.ndarray) -> float:
    """κ of one class, in [0, 1]: F_u / F_x of the values `u` and `x`, [m] and [n], where it is least.

    1 where fewer than two values say how known images lie.
    """
    if len(x) < 2 or not len(u):
        return 1.0
    x, u = np.sort(x), np.sort(u)
    thresholds = x[(len(x) - 1) // 2 :]
    below_x, below_u = (np.searchsorted(values, thresholds, "right") for values in (x, u))
    # Below the i-th smallest of n values lies a share that is Beta(i, n + 1 − i); where i of m values lie, one that is
    # Beta(i + 1, m + 1 − i). Each may be off by so many standard errors, relatively.
    share_x, share_u = below_x / (len(x) + 1), (below_u + 1) / (len(u) + 2)
    off_x, off_u = (
        ERRORS * np.sqrt((1 - share) / (share * (count + 1)))
        for share, count in ((share_x, len(x) + 1), (share_u, len(u) + 2))
    )
    raised = np.hypot(1 / np.maximum(1 - off_x, 1e-9) - 1, off_u)
    return float(min(1.0, (share_u / share_x * (1 + raised)).min()))
