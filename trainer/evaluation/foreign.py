"""Judges the unlabelled images of a run: how foreign each looks, and how many are.

The score is `trainer.functional.scorer`'s. From embeddings the walks tell the share, too (`.foreign`); of features that
were trained, the overlap of labelled and unlabelled images along a direction (`.mismatch_share`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stores.errors import IntegrityError
from trainer.evaluation import scores
from trainer.evaluation.predictor import PoolPredictor
from trainer.functional import mismatch_share, ood_scores, scorer
from trainer.functional.foreign import share as share_of
from trainer.functional.ops import concatenate
from trainer.functional.scorer import Scorer

SAMPLE = 4000  # images of either kind that a finished run is asked about


@dataclass(frozen=True)
class Seen:
    """Images of one kind: labelled, or unlabelled without those that are labelled as well.

    Attributes:
        positions: int64 [n], ascending, in the run's index array.
        features: float64 [n, D].
        logits: float64 [n, K].
    """

    positions: np.ndarray
    features: np.ndarray
    logits: np.ndarray

    @property
    def guesses(self) -> np.ndarray:
        """int64 [n], predicted classes."""
        classes: np.ndarray = self.logits.argmax(1)
        return classes


def labeled(predictor: PoolPredictor, most: int | None = None) -> Seen:
    """The labelled images, or at most so many, evenly spread."""
    return _seen(concatenate(predictor.labeled("features", "classes", most=most)))


def unlabeled(predictor: PoolPredictor, most: int | None = None) -> Seen:
    """The unlabelled images, or at most so many, evenly spread."""
    return _seen(concatenate(predictor.unlabeled("features", "classes", most=most, without_labeled=True)))


@dataclass(frozen=True)
class Judged:
    """Unlabelled images, and what scores any other.

    Attributes:
        labeled: the labelled images that they were compared with; labels: int64 [n], their classes.
        seen: the unlabelled images.
        score: float64 [m] in [0, 1]; high means foreign.
        foreign: bool [m], the decision: as many as the share says, those with the highest scores.
        share: estimated share of foreign images, in [0, 1]; None where the labels cannot tell.
        interval: of the share; None where it is not known.
        scorer: scores other images.
    """

    labeled: Seen
    labels: np.ndarray
    seen: Seen
    score: np.ndarray
    foreign: np.ndarray
    share: float | None
    interval: tuple[float, float] | None
    scorer: Scorer

    @property
    def features(self) -> str:
        """Of what kind they are: "frozen" or "trained"."""
        return "frozen" if self.scorer.away is None else "trained"

    @property
    def confidence(self) -> np.ndarray:
        """float64 [m], probabilities of the predicted classes."""
        return 1 - ood_scores.one_minus_confidence(self.seen.logits)


def judge(predictor: PoolPredictor, most: int | None = None) -> Judged | None:
    """Judge the unlabelled images by the features of `predictor`'s network.

    Args:
        predictor: of the run.
        most: images of either kind, evenly spread; None: all.

    Returns:
        None if there are no unlabelled images, or no labelled ones to compare them with.

    Raises:
        IntegrityError: features or logits are not finite.
    """
    x, u = labeled(predictor, most), unlabeled(predictor, most)
    if not len(x.positions) or not len(u.positions):
        return None
    labels = predictor.labels[x.positions]
    guesses = None if predictor.frozen else (x.guesses, u.guesses, predictor.num_classes)
    fitted = scorer.fit(x.features, labels, u.features, guesses)
    if guesses is None:
        found = share_of(fitted.walks, fitted.walked)
        share = None if found is None else found.value
        interval = None if found is None else (found.low, found.high)
    else:
        share, interval = mismatch_share.estimate(x.features, x.guesses, u.features, *guesses[1:]), None
    foreign = np.zeros(len(fitted.score), bool)
    foreign[np.argsort(-fitted.score, kind="stable")[: round((share or 0) * len(foreign))]] = True
    return Judged(x, labels, u, fitted.score, foreign, share, interval, fitted.scorer)


def by_score(judged: Judged, foreign: np.ndarray) -> dict[str, dict[str, float | None]]:
    """How well each score tells foreign from known images: {"auroc", "fpr95"} by its name, "default" the first.

    Args:
        foreign: bool [m], which of the unlabelled images are.
    """
    x, y, u = judged.labeled.features, judged.labels, judged.seen
    about = (x, judged.labeled.guesses, u.features, u.guesses, u.logits.shape[1])
    found = {
        "default": judged.score,
        "walks": judged.scorer.places.score(u.features),
        "1 - confidence": ood_scores.one_minus_confidence(u.logits),
        "max logit": ood_scores.max_logit(u.logits),
        "energy": ood_scores.energy(u.logits),
        "class centre": ood_scores.centre(u.features, x, y),
        "Mahalanobis": ood_scores.mahalanobis(u.features, x, y),
        "nearest label": ood_scores.nearest(u.features, x),
        "discriminant": u.features @ mismatch_share.direction(*about),
    }
    return {name: quality(score, foreign) for name, score in found.items()}


def quality(score: np.ndarray, foreign: np.ndarray) -> dict[str, float | None]:
    """AUROC and FPR@95, see `trainer.evaluation.scores`."""
    return {"auroc": scores.auroc(score, foreign), "fpr95": scores.fpr95(score, foreign)}


def _seen(images: Mapping[str, Tensor]) -> Seen:
    features, logits = (images[name].double().numpy() for name in ("features", "classes"))
    if not (np.isfinite(features).all() and np.isfinite(logits).all()):
        raise IntegrityError("the network's answers are no numbers", "its weights are too large", "train it again")
    return Seen(images["position"].numpy(), features, logits)
