"""Which unlabelled images belong to no training class, and how many: walks among neighbours that meet no label.

Foreign images form clusters of their own, which no label touches. To find them without a number of clusters:

 1. Every image, labelled or not, is tied to its nearest neighbours in feature space, firmly where both count each other
    among their nearest.
 2. A walk goes from neighbour to neighbour and ends before each step with probability 1 − α. The score of an image is
    the probability that a walk from there ends before it meets a label (Zhu, Ghahramani & Lafferty 2003, with an end).
    One linear system gives it for all images.
 3. The labels tell how such scores are to be read. A known image scores as each labelled image does without its own
    label (leave one out), a foreign one as each does without any label of its class (leave one class out). Both follow
    in closed form from the walk's matrix between labels, as in Gaussian processes.
 4. If shares fp of the known, tp of the foreign and v of the unlabelled images score above a threshold, then
    γ = (v − fp) / (tp − fp) of the unlabelled ones are foreign (adjusted counting, Forman 2008). Foreign classes may
    lie farther away than the known ones do from each other, so tp is taken for 1, and γ is rather too small. It is the
    median over the thresholds where tp − fp is largest or nearly so.

Steps 3 and 4 need features that were not trained on these labels, such as those of a frozen backbone: a network that
has learnt its labelled images by heart puts them closer together than other images of their classes. For trained
features `trainer.functional.mismatch_share` estimates γ; scores are good for both. The combination is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 15
ONE_SIDED, MUTUAL = 0.2, 1.4  # weights of a tie that one of both images, or both, count among their nearest
SURVIVAL = 0.9  # α
DIMENSIONS = 48  # principal components of the features in which neighbours are looked for
NEARLY = 0.05  # thresholds are nearly as good as the best if their tp − fp is at most so much below
RESAMPLINGS, COVERED = 100, (0.05, 0.95)  # of the classes, for the interval of γ
BLOCK = 1024  # images whose neighbours are looked for at a time


@dataclass(frozen=True)
class Share:
    """How many of the unlabelled images are foreign.

    Attributes:
        value: γ in [0, 1].
        low: γ is at least this in 95 % of resamplings of the classes.
        high: γ is at most this in 95 % of them, with the tp of the known classes, and where a label less changes more.
        threshold: images that score above it are taken for foreign.
        separation: tp − fp there, in [0, 1]: how well a class without labels is told from those with labels.
    """

    value: float
    low: float
    high: float
    threshold: float
    separation: float


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
        return _unit((_unit(features) - self.centre) @ self.axes)


class Walks:
    """Walks among labelled and unlabelled images.

    Memory and time grow with the square and the cube of n + m: a few thousand images are enough to score any number.

    Args:
        x: float [n, D], features of labelled images; n > 0.
        y: int64 [n], their classes.
        u: float [m, D], features of unlabelled images; m > 0.

    Attributes:
        scores: float64 [m] in [0, 1] of the unlabelled images; high means foreign.
        places: that score other images.

    Raises:
        ValueError: features that are not finite.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, u: np.ndarray) -> None:
        features = np.concatenate([x, u]).astype(np.float64)
        if not np.isfinite(features).all():
            raise ValueError("features must be finite")
        unit = _unit(features)
        centre = unit.mean(0)
        axes = _components(unit - centre)
        at = _unit((unit - centre) @ axes)
        self._classes = y
        nearest, reach = _nearest(at, at, min(NEIGHBOURS, len(features) - 1), itself=True)
        ties = np.zeros((len(features),) * 2)
        ties[np.arange(len(features))[:, None], nearest] = 1
        ties = (MUTUAL - 2 * ONE_SIDED) * ties * ties.T + ONE_SIDED * (ties + ties.T)
        stay = np.eye(len(ties)) - SURVIVAL * ties / ties.sum(1, keepdims=True)
        n = len(x)
        met = -np.linalg.solve(stay[n:, n:], stay[n:, :n])  # [m, n]: which label a walk meets first
        self._between = stay[:n, :n] + stay[:n, n:] @ met
        self.scores = np.clip(1 - met.sum(1), 0, 1)
        self.places = Places(centre, axes, at, reach, np.concatenate([np.zeros(n), self.scores]))

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """What the labelled images would score, float64 [n] each: without their own label, without their class's."""
        between, own = self._between, np.diag(self._between)
        one = 1 + (between.sum(1) - own) / own
        by_class = np.empty(len(between))
        for label in np.unique(self._classes):
            same = self._classes == label
            met = np.linalg.solve(between[np.ix_(same, same)], between[np.ix_(same, ~same)].sum(1))
            by_class[same] = 1 + met
        return np.clip(one, 0, 1), np.clip(by_class, 0, 1)

    def share(self, scores: np.ndarray | None = None) -> Share | None:
        """γ; None if there are fewer than two classes, or than two labels a class on average.

        Args:
            scores: float64 [k], of all unlabelled images; None: those of `u`.
        """
        per_class = len(self._classes) / len(np.unique(self._classes))
        if per_class < 2 or per_class == len(self._classes):
            return None
        scores = np.sort(self.scores if scores is None else scores)
        known, foreign = self.left_out()
        # With its own label an image's class has one more: about so much less often is it far from all of them.
        fewer = (per_class - 1) / per_class
        value, threshold, separation = _count(scores, known, foreign, fewer)
        rng, classes = np.random.default_rng(0), np.unique(self._classes)
        lows, highs = [], []
        for _ in range(RESAMPLINGS):  # of classes: the foreign ones are others again
            chosen = np.concatenate([np.flatnonzero(self._classes == c) for c in rng.choice(classes, len(classes))])
            lows.append(_count(scores, known[chosen], foreign[chosen], fewer)[0])
            highs.append(_count(scores, known[chosen], foreign[chosen], fewer**3, all_found=False)[0])
        low, high = np.quantile(lows, COVERED[0]), np.quantile(highs, COVERED[1])
        return Share(value, min(float(low), value), max(float(high), value), threshold, separation)


def estimate(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> float:
    """γ in [0, 1] of walks among these images; 0 where nothing can be said."""
    if not len(x) or not len(u) or not (np.isfinite(x).all() and np.isfinite(u).all()):
        return 0.0
    found = Walks(x, y, u).share()
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
    scores: np.ndarray, known: np.ndarray, foreign: np.ndarray, fewer: float, all_found: bool = True
) -> tuple[float, float, float]:
    """γ by adjusted counting, the threshold at which tp − fp is largest, and that difference.

    Args:
        scores: float64 [m], sorted, of the unlabelled images.
        known: float64 [n], of known images.
        foreign: float64 [n], of foreign ones.
        fewer: factor of fp.
        all_found: tp is 1 when images are counted.
    """
    thresholds = np.unique(np.concatenate([known, foreign]))
    v, fp, tp = (
        1 - np.searchsorted(values, thresholds, "right") / len(values)
        for values in (scores, np.sort(known), np.sort(foreign))
    )
    fp *= fewer
    separation = tp - fp
    best = separation.max()
    if best <= 0:
        return 0.0, 1.0, 0.0
    good = separation >= max(best - NEARLY, best / 2)
    found = (1 if all_found else tp[good]) - fp[good]
    value = float(np.clip(np.median((v[good] - fp[good]) / np.maximum(found, 1e-9)), 0, 1))
    return value, float(thresholds[separation.argmax()]), float(best)


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


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return unit
