"""Walks among labelled and unlabelled images that end where they meet a label: what they say of images of both kinds.

 1. Every image, labelled or not, is tied to its nearest neighbours in feature space, firmly where both count each other
    among their nearest.
 2. A walk goes from neighbour to neighbour and ends before each step with probability 1 − α. Where it meets a label, it
    ends there (Zhu, Ghahramani & Lafferty 2003, with an end). An image is foreign in so far as a walk from there ends
    before it meets any. One linear system gives this for all images.
 3. What a labelled image would be told without its own label (leave one out), or without any label of its class (leave
    one class out), follows in closed form from the walk's matrix between labels, as in Gaussian processes.

`trainer.functional.foreign` counts foreign images by them, `trainer.functional.label_errors` doubts labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.functional.ood_scores import unit

NEIGHBOURS = 15
ONE_SIDED, MUTUAL = 0.2, 1.4  # weights of a tie that one of both images, or both, count among their nearest
SURVIVAL = 0.9  # α
DIMENSIONS = 48  # principal components of the features in which neighbours are looked for
BLOCK = 1024  # images whose neighbours are looked for at a time


@dataclass(frozen=True)
class Places:
    """Where walks have started, and what came of it: all that is needed to score other images.

    Attributes:
        centre: float [D], mean of the features, each scaled to length 1.
        axes: float [D, d], their principal components.
        at: float [n, d], of length 1: images, projected to the components.
        reach: float [n], cosine of each to the farthest of its nearest neighbours.
        scores: float [n] in [0, 1] of each; 0 of a labelled one.
    """

    centre: np.ndarray
    axes: np.ndarray
    at: np.ndarray
    reach: np.ndarray
    scores: np.ndarray

    def score(self, features: np.ndarray) -> np.ndarray:
        """Scores of images one step away from these places: float [k, D] to float64 [k] in [0, 1]."""
        at = self.project(features.astype(np.float64))
        nearest, likeness = _nearest(at, self.at, min(NEIGHBOURS, len(self.at)))
        weight = np.where(likeness >= self.reach[nearest], MUTUAL, ONE_SIDED)
        met = (weight * (1 - self.scores[nearest])).sum(1) / weight.sum(1)
        scores: np.ndarray = np.clip(1 - SURVIVAL * met, 0, 1)
        return scores

    def project(self, features: np.ndarray) -> np.ndarray:
        """Features [k, D] to where they are among the places, [k, d]."""
        return unit((unit(features) - self.centre) @ self.axes)


class Walks:
    """Walks among labelled and unlabelled images.

    Memory and time grow with the square and the cube of n + m: a few thousand images are enough to score any number.

    Args:
        x: float [n, D], features of labelled images; n > 0.
        y: int64 [n], their classes.
        u: float [m, D], features of unlabelled images; m > 0.

    Attributes:
        classes: int64 [n], of the labelled images.
        met: float64 [m, n], how likely a walk from an unlabelled image meets each label first.
        scores: float64 [m] in [0, 1] of the unlabelled images, how likely it meets none; high means foreign.
        places: that score other images.

    Raises:
        ValueError: features that are not finite.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, u: np.ndarray) -> None:
        features = np.concatenate([x, u]).astype(np.float64)
        if not np.isfinite(features).all():
            raise ValueError("features must be finite")
        scaled = unit(features)
        centre = scaled.mean(0)
        axes = _components(scaled - centre)
        at = unit((scaled - centre) @ axes)
        self.classes = y
        nearest, reach = _nearest(at, at, min(NEIGHBOURS, len(features) - 1), itself=True)
        ties = np.zeros((len(features),) * 2)
        ties[np.arange(len(features))[:, None], nearest] = 1
        ties = (MUTUAL - 2 * ONE_SIDED) * ties * ties.T + ONE_SIDED * (ties + ties.T)
        stay = np.eye(len(ties)) - SURVIVAL * ties / ties.sum(1, keepdims=True)
        n = len(x)
        self.met = -np.linalg.solve(stay[n:, n:], stay[n:, :n])
        self._between = stay[:n, :n] + stay[:n, n:] @ self.met
        self.scores = np.clip(1 - self.met.sum(1), 0, 1)
        self.places = Places(centre, axes, at, reach, np.concatenate([np.zeros(n), self.scores]))

    def guesses(self) -> np.ndarray:
        """Classes of the labelled images by the other labels, float64 [n, K]: which class's a walk meets first.

        Rows sum to 1, or to 0 where a walk meets no other label.
        """
        met = -self._between / np.diag(self._between)[:, None]
        np.fill_diagonal(met, 0)
        by_class = self._by_class(np.clip(met, 0, None))
        found: np.ndarray = by_class / np.maximum(by_class.sum(1, keepdims=True), np.finfo(np.float64).tiny)
        return found

    def nearest_classes(self) -> np.ndarray:
        """Of each unlabelled image the class that a walk meets first most likely, int64 [m]."""
        nearest: np.ndarray = self._by_class(self.met).argmax(1)
        return nearest

    def _by_class(self, met: np.ndarray) -> np.ndarray:
        """Sums over the labels of a class: [k, n] to [k, K]."""
        sums: np.ndarray = met @ (self.classes[:, None] == np.arange(self.classes.max() + 1))
        return sums

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """What the labelled images would score, float64 [n] each: without their own label, without their class's."""
        between, own = self._between, np.diag(self._between)
        one = 1 + (between.sum(1) - own) / own
        by_class = np.empty(len(between))
        for label in np.unique(self.classes):
            same = self.classes == label
            met = np.linalg.solve(between[np.ix_(same, same)], between[np.ix_(same, ~same)].sum(1))
            by_class[same] = 1 + met
        return np.clip(one, 0, 1), np.clip(by_class, 0, 1)


def _nearest(places: np.ndarray, among: np.ndarray, count: int, itself: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The nearest neighbours by cosine of unit vectors.

    Args:
        places: float64 [k, d].
        among: float64 [n, d].
        count: of neighbours.
        itself: `places` is `among`, and nothing is its own neighbour.

    Returns:
        int64 [k, count], unordered; and the cosine of each, or with `itself` of the farthest one, [k].
    """
    found, cosines = np.empty((len(places), count), np.int64), np.empty((len(places), count))
    for start in range(0, len(places), BLOCK):
        cosine = places[start : start + BLOCK] @ among.T
        if itself:
            cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = -np.inf
        rows = slice(start, start + len(cosine))
        found[rows] = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        cosines[rows] = np.take_along_axis(cosine, found[rows], 1)
    return found, cosines.min(1) if itself else cosines


def _components(rows: np.ndarray) -> np.ndarray:
    """The first principal components of centred rows [n, D]: float64 [D, DIMENSIONS], or as many as there are."""
    if rows.shape[1] <= len(rows):
        return np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :DIMENSIONS]
    values, left = (part[..., ::-1][..., :DIMENSIONS] for part in np.linalg.eigh(rows @ rows.T))
    there = values > 1e-12 * max(values[0], np.finfo(np.float64).tiny)
    axes: np.ndarray = rows.T @ left[:, there] / np.sqrt(values[there])
    return axes
