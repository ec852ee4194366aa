"""Judges the unlabelled images of a run: how foreign each looks, and how many are.

From features that the run did not train (embeddings of a frozen backbone) walks among neighbours give both, see
`trainer.functional.foreign`. A network that was trained here knows its labelled images by heart: then the score is the
mean of two ranks, by the walks and along the direction between labelled and unlabelled images, whose overlap gives the
share (`trainer.functional.mismatch_share`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.evaluation.predictor import PoolPredictor
from trainer.functional import mismatch_share
from trainer.functional.foreign import Walks
from trainer.functional.ops import concatenate

LABELED, UNLABELED = 1000, 3000  # images that are walked among, at most; all others are one step away from them


@dataclass(frozen=True)
class Judged:
    """The unlabelled images of a run, without those that are labelled as well.

    Attributes:
        positions: int64 [m], ascending, in the run's unlabelled index array.
        classes: int64 [m], predicted classes.
        confidence: float64 [m], their probabilities.
        score: float64 [m] in [0, 1]; high means foreign.
        foreign: bool [m], the decision: as many as the share says, those with the highest scores.
        share: estimated share of foreign images.
        interval: of the share; None where it is not known.
        features: "frozen" or "trained".
    """

    positions: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    score: np.ndarray
    foreign: np.ndarray
    share: float
    interval: tuple[float, float] | None
    features: str


def judge(predictor: PoolPredictor) -> Judged | None:
    """Judge all unlabelled images; None if there are none, or no labelled ones to compare them with.

    The features are those of `predictor`'s network.
    """
    x = concatenate(predictor.labeled("features", "classes"))
    u = concatenate(predictor.unlabeled("features", "classes", without_labeled=True))
    positions, logits = u["position"].numpy(), u["classes"].double().numpy()
    if not len(positions) or not len(x["features"]):
        return None
    x_features, u_features = (images["features"].double().numpy() for images in (x, u))
    guesses, num_classes = logits.argmax(1), predictor.num_classes
    some_x, some_u = (_spread(len(rows), most) for rows, most in ((x_features, LABELED), (u_features, UNLABELED)))
    walks = Walks(x_features[some_x], predictor.labels[x["position"].numpy()][some_x], u_features[some_u])
    score = walks.score(u_features)
    score[some_u] = walks.scores
    share, interval = 0.0, None
    if predictor.frozen:
        found = walks.share(score)
        if found is not None:
            share, interval = found.value, (found.low, found.high)
    else:
        classes_x = x["classes"].argmax(1).numpy()
        away = u_features @ mismatch_share.direction(x_features, classes_x, u_features, guesses, num_classes)
        share = mismatch_share.estimate(x_features, classes_x, u_features, guesses, num_classes)
        score = (_rank(score) + _rank(away)) / 2
    foreign = np.zeros(len(score), bool)
    foreign[np.argsort(-score, kind="stable")[: round(share * len(score))]] = True
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (shifted / shifted.sum(1, keepdims=True)).max(1)
    kind = "frozen" if predictor.frozen else "trained"
    return Judged(positions, guesses, confidence, score, foreign, share, interval, kind)


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` rows, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _rank(values: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1]; equal values share theirs."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    rank: np.ndarray = ((np.cumsum(count) - (count + 1) / 2) / max(len(values) - 1, 1))[group]
    return rank
