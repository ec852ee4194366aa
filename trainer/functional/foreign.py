"""How many unlabelled images belong to no training class, from walks that meet no label.

Foreign images form clusters of their own, which no label touches, so walks score them high (`.walks`). How many there
are, the labels tell:

 1. A known image scores as each labelled image does without its own label, a foreign one as each does without any label
    of its class.
 2. If shares fp of the known, tp of the foreign and v of the unlabelled images score above a threshold, then
    γ = (v − fp) / (tp − fp) of the unlabelled ones are foreign (adjusted counting, Forman 2008). It is the median over
    the thresholds where tp − fp is largest or nearly so; where many known images score above, γ is not to be trusted,
    so fp must be small. Foreign classes may lie farther away than the known ones do from each other, so tp is taken for
    `FOUND` at least.
 3. Classes differ in fp. What counts is that of the classes that are among the unlabelled images, as often as they are:
    as often as walks from those below the threshold meet a label of theirs first.

This needs features that were not trained on these labels, such as those of a frozen backbone: a network that has learnt
its labelled images by heart puts them closer together than other images of their classes. For trained features
`trainer.functional.mismatch_share` estimates γ; scores are good for both. The combination is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.functional.walks import Walks

FOUND = 0.95  # of the foreign images, where the threshold is well chosen
MISTAKEN = 0.2  # fp is at most so large
NEARLY = 0.05  # thresholds are nearly as good as the best if their tp − fp is at most so much below
ROUNDS = 3  # in which threshold and frequencies of the classes follow from each other
RESAMPLINGS, COVERED = 100, (0.05, 0.95)  # of the classes, for the interval of γ


@dataclass(frozen=True)
class Share:
    """How many of the unlabelled images are foreign.

    Attributes:
        value: γ in [0, 1].
        low: γ is at least this in 95 % of resamplings of the classes, if all foreign images were found.
        high: γ is at most this in 95 % of them, with the tp of the known classes, and where a label less changes more.
        threshold: images that score above it are taken for foreign.
        separation: tp − fp there, in [0, 1]: how well a class without labels is told from those with labels.
    """

    value: float
    low: float
    high: float
    threshold: float
    separation: float


def share(walks: Walks, scores: np.ndarray | None = None) -> Share | None:
    """γ; None if there are fewer than two classes, or than two labels a class on average.

    Args:
        walks: among the images.
        scores: float64 [k], of all unlabelled images; None: of those that were walked from.
    """
    y = walks.classes
    per_class = len(y) / len(np.unique(y))
    if per_class < 2 or per_class == len(y):
        return None
    scores = np.sort(walks.scores if scores is None else scores)
    known, foreign = walks.left_out()
    # With its own label an image's class has one more: about so much less often is it far from all of them.
    fewer = (per_class - 1) / per_class
    nearest, images = walks.nearest_classes(), np.bincount(y)
    weight = 1 / images[y]
    value, threshold, separation = _count(scores, known, foreign, weight, fewer, FOUND)
    for _ in range(ROUNDS):
        frequency = 1 + np.bincount(nearest[walks.scores <= threshold], minlength=len(images))
        weight = frequency[y] / images[y]
        value, threshold, separation = _count(scores, known, foreign, weight, fewer, FOUND)
    rng, classes = np.random.default_rng(0), np.unique(y)
    lows, highs = [], []
    for _ in range(RESAMPLINGS):  # of classes: the foreign ones are others again
        drawn = weight * np.bincount(rng.choice(classes, len(classes)), minlength=len(images))[y]
        lows.append(_count(scores, known, foreign, drawn, fewer, 1)[0])
        highs.append(_count(scores, known, foreign, drawn, fewer**3, 0)[0])
    low, high = float(np.quantile(lows, COVERED[0])), float(np.quantile(highs, COVERED[1]))
    value = value if low > 0 else 0.0  # where there may be none, none is told
    return Share(value, min(low, value), max(high, value), threshold, separation)


def estimate(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> float:
    """γ in [0, 1] of walks among these images; 0 where nothing can be said."""
    if not len(x) or not len(u) or not (np.isfinite(x).all() and np.isfinite(u).all()):
        return 0.0
    found = share(Walks(x, y, u))
    return 0.0 if found is None else found.value


def share_told(share: float | None, interval: Sequence[float] | None, whose: str) -> str:
    """The estimated share of foreign images, in words.

    Args:
        share: in [0, 1]; None: the labels cannot tell.
        interval: [low, high]; None: it is not known.
        whose: what stands before "unlabelled images".
    """
    if share is None:
        return f"how many of {whose} unlabelled images are foreign cannot be told from so few labels"
    between = "" if interval is None else f" (between {interval[0]:.0%} and {interval[1]:.0%})"
    return f"about {share:.0%} of {whose} unlabelled images look foreign{between}"


def _count(
    scores: np.ndarray, known: np.ndarray, foreign: np.ndarray, weight: np.ndarray, fewer: float, found: float
) -> tuple[float, float, float]:
    """γ by adjusted counting, the threshold at which tp − fp is largest, and that difference.

    Args:
        scores: float64 [m], sorted, of the unlabelled images.
        known: float64 [n], of known images.
        foreign: float64 [n], of foreign ones.
        weight: float64 [n], of both.
        fewer: factor of fp.
        found: tp is so much at least when images are counted.
    """
    thresholds = np.unique(np.concatenate([known, foreign]))
    v = 1 - np.searchsorted(scores, thresholds, "right") / len(scores)
    fp, tp = fewer * _above(known, weight, thresholds), _above(foreign, weight, thresholds)
    separation = np.where(fp <= MISTAKEN, tp - fp, 0)
    best = separation.max()
    if best <= 0:
        return 0.0, 1.0, 0.0
    good = separation >= max(best - NEARLY, best / 2)
    apart = np.maximum(tp[good], found) - fp[good]
    value = float(np.clip(np.median((v[good] - fp[good]) / np.maximum(apart, 1e-9)), 0, 1))
    return value, float(thresholds[separation.argmax()]), float(best)


def _above(values: np.ndarray, weight: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Shares of the weight [n] whose values [n] are above each threshold: float64 [t]."""
    order = np.argsort(values, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weight[order])])
    shares: np.ndarray = 1 - below[np.searchsorted(values[order], thresholds, "right")] / below[-1]
    return shares
