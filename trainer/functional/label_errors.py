"""Which labels look wrong, by confident learning (Northcutt, Jiang & Chuang 2021), and which images are there twice."""

from __future__ import annotations

import numpy as np

from trainer.functional.ood_scores import unit

BLOCK = 1024  # images compared at a time
MOST = 5  # copies of an image that are looked for


def suspects(probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The off-diagonal of the confident joint: images that are confidently of another class than their label says.

    An image is confidently of class j if its probability of j is at least t_j, the mean over the images labelled j
    (equation 2), and is the largest of those that are (equation 1).

    Args:
        probs: float64 [n, K], of each image by whatever has not seen its own label.
        labels: int64 [n] in [0, K).

    Returns:
        int64 [k], the images, the most certain first: by p(label) − p(class), the normalised margin.
        int64 [k], the class of each.
    """
    rows, classes = np.arange(len(labels)), np.arange(probs.shape[1])
    own = probs[rows, labels]
    threshold = np.array([own[labels == c].mean() if (labels == c).any() else np.inf for c in classes])
    confident = np.where(probs >= threshold, probs, -1)
    best = confident.argmax(1)
    margin = own - confident[rows, best]
    found = np.flatnonzero((confident[rows, best] >= 0) & (best != labels))
    found = found[np.argsort(margin[found], kind="stable")]
    return found, best[found]


def duplicates(
    x: np.ndarray, rows_x: np.ndarray, among: np.ndarray, rows: np.ndarray, near: float
) -> list[tuple[int, int, float]]:
    """Pairs of images that are much nearer to each other than neighbours usually are.

    Args:
        x: float [n, D], features of some images; rows_x: int64 [n], which images these are.
        among: float [m, D], features of all images that one of them may be a copy of; rows: int64 [m].
        near: a pair is near if its distance, 1 − the cosine, is below this part of the median distance from an image
            of `x` to its nearest neighbour.

    Returns:
        (row, row, distance as a part of that median), the nearest first; every pair once, and of an image no more than
        its `MOST` nearest.
    """
    count = min(MOST, len(rows) - 1)
    if count < 1:
        return []
    units = unit(among.astype(np.float64))
    nearest, distances = np.empty((len(x), count), np.int64), np.empty((len(x), count))
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        apart = 1 - unit(x[part].astype(np.float64)) @ units.T
        apart[rows_x[part][:, None] == rows] = np.inf
        nearest[part] = np.argpartition(apart, count - 1, axis=1)[:, :count]
        distances[part] = np.take_along_axis(apart, nearest[part], 1)
    distances /= np.median(distances.min(1)) or 1.0
    found = {
        (min(pair), max(pair)): float(max(distances[i, j], 0))
        for i, j in zip(*np.nonzero(distances < near), strict=True)
        for pair in [(int(rows_x[i]), int(rows[nearest[i, j]]))]
    }
    return sorted(((*pair, apart) for pair, apart in found.items()), key=lambda one: (one[2], one[:2]))
