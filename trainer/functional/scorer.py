"""The default score of foreign images, from the features of a run's labelled and unlabelled images.

From features that the run did not train (embeddings of a frozen backbone) it is that of walks among neighbours, see
`.walks`. A network that was trained on the labels knows its labelled images by heart: then it is the mean of two ranks,
by the walks and along the direction between labelled and unlabelled images, see `.mismatch_share`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.functional import mismatch_share
from trainer.functional.walks import Places, Walks

LABELED, UNLABELED = 1000, 3000  # images that are walked among, at most; all others are one step away from them
LEVELS = 257  # quantiles of a score over the pool


@dataclass(frozen=True)
class Scorer:
    """The default score of foreign images, for any image.

    Attributes:
        places: of walks among the labelled and unlabelled images of a run.
        away: float [D], direction from labelled to unlabelled features; None where the run trained no features.
        levels: float [2, LEVELS], quantiles over the pool of the scores by `places` and along `away`; None without.
    """

    places: Places
    away: np.ndarray | None = None
    levels: np.ndarray | None = None

    def score(self, features: np.ndarray, walked: np.ndarray | None = None) -> np.ndarray:
        """Features [k, D], see `contract.Predictor`, to float64 [k] in [0, 1]; high means foreign.

        Args:
            walked: scores by `places`, if they are known.
        """
        walked = self.places.score(features) if walked is None else walked
        if self.away is None or self.levels is None:
            return walked
        shares = np.linspace(0, 1, LEVELS)
        values = (walked, features.astype(np.float64) @ self.away)
        ranks = [np.interp(value, level, shares) for value, level in zip(values, self.levels, strict=True)]
        score: np.ndarray = np.mean(ranks, 0)
        return score


@dataclass(frozen=True)
class Fitted:
    """What `fit` gives.

    Attributes:
        scorer: for any image.
        score: float64 [m], of the unlabelled images.
        walked: float64 [m], of the walks alone.
        walks: among the images, or some of them.
    """

    scorer: Scorer
    score: np.ndarray
    walked: np.ndarray
    walks: Walks


def fit(
    x: np.ndarray, y: np.ndarray, u: np.ndarray, guesses: tuple[np.ndarray, np.ndarray, int] | None = None
) -> Fitted:
    """Fit the score.

    Args:
        x: float64 [n, D], features of labelled images, n > 0; y: int64 [n], their classes.
        u: float64 [m, D], features of unlabelled images, m > 0.
        guesses: predicted classes int64 [n] and [m], and their number, of features that were trained; None: frozen.

    Raises:
        ValueError: features that are not finite.
    """
    some_x, some_u = _spread(len(x), LABELED), _spread(len(u), UNLABELED)
    walks = Walks(x[some_x], y[some_x], u[some_u])
    walked = walks.places.score(u)
    walked[some_u] = walks.scores
    scorer = Scorer(walks.places)
    if guesses is not None:
        guessed_x, guessed_u, num_classes = guesses
        away = mismatch_share.direction(x, guessed_x, u, guessed_u, num_classes)
        shares = np.linspace(0, 1, LEVELS)
        levels = np.stack([np.quantile(values, shares) for values in (walked, u @ away)])
        scorer = Scorer(walks.places, away, levels)
    return Fitted(scorer, scorer.score(u, walked), walked, walks)


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` rows, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
