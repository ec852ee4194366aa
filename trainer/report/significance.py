"""Intervals of 95 %: of an error, and of how much less one group of runs errs than another.

Two intervals count different things. Student's t over the differences of three seeds or more, seed by seed, counts the
choice of labelled images and chance in training. A bootstrap over the test images, image by image, says what another
test set of this size would show of the same networks. Of the two the wider one is taken.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.report.records import Group, Record

LEVEL = 0.95
Z = 1.959963984540054  # the normal distribution's quantile of 1 − (1 − LEVEL) / 2
FEWEST = 3  # seeds from which their spread says something
DRAWS = 20_000  # of the bootstrap


@dataclass(frozen=True)
class Difference:
    """By how much more the first of two errs than the second, in points of the score.

    Attributes:
        mean: of the differences.
        low, high: its interval.
        seeds: how many seeds both have.
        images: size of the test set, of a bootstrap over it; None: the interval is over seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int
    images: int | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def difference(first: Group, second: Group, score: str = "error_last") -> Difference | None:
    """Compare two groups of runs on the same data; None if nothing can be said.

    Args:
        score: name in result.json; only of "error_last" is there a bootstrap.
    """
    pairs = _pairs(first, second)
    found = [_over_seeds(pairs, score), _over_images(pairs) if score == "error_last" else None]
    return max((one for one in found if one is not None), key=lambda one: one.high - one.low, default=None)


def _over_seeds(pairs: Sequence[tuple[Record, Record]], score: str) -> Difference | None:
    values = [(a.score(score), b.score(score)) for a, b in pairs]
    differences = [a - b for a, b in values if a is not None and b is not None]
    if len(differences) < FEWEST:
        return None
    mean, reach = statistics.fmean(differences), t_reach(differences)
    return Difference(mean, mean - reach, mean + reach, len(differences))


def _over_images(pairs: Sequence[tuple[Record, Record]]) -> Difference | None:
    wrong = [one for pair in pairs if (one := _wrong_by_image(*pair)) is not None]
    if not wrong or len(wrong) < len(pairs) or len({len(one) for one in wrong}) > 1:
        return None
    each = np.mean(wrong, 0)
    low, high = bootstrap(100 * each)
    return Difference(100 * float(each.mean()), low, high, len(pairs), len(each))


def _pairs(first: Group, second: Group) -> list[tuple[Record, Record]]:
    """Finished runs of the same seeds."""
    own = {(r.run["seed"], r.store["split_seed"]): r for r in second.records if r.result is not None}
    seeds = [(r, own.get((r.run["seed"], r.store["split_seed"]))) for r in first.records if r.result is not None]
    return [(a, b) for a, b in seeds if b is not None]


def _wrong_by_image(first: Record, second: Record) -> np.ndarray | None:
    """Whether the first errs minus whether the second does, int [n]; None unless it is the same test set."""
    a, b = first.outcomes, second.outcomes
    if a is None or b is None or not len(a.test_rows) or not np.array_equal(a.test_rows, b.test_rows):
        return None
    wrong: np.ndarray = (a.test_guesses != a.test_labels).astype(int) - (b.test_guesses != b.test_labels)
    return wrong


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the mean of float [n]; the same for the same values.

    They take few values: drawing how often each occurs is drawing n of them with replacement.
    """
    levels, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(0)
    means = rng.multinomial(len(values), counts / len(values), DRAWS) @ levels / len(values)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(wrong: int, total: int) -> tuple[float, float]:
    """Interval of a share in [0, 1] (Wilson 1927)."""
    center = (wrong + Z**2 / 2) / (total + Z**2)
    reach = Z / (total + Z**2) * math.sqrt(wrong * (total - wrong) / total + Z**2 / 4)
    return max(0.0, center - reach), min(1.0, center + reach)


def t_reach(values: Sequence[float]) -> float:
    """Half the interval of a mean over n ≥ 2 values, by Student's t of n − 1 degrees of freedom."""
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def t_quantile(freedom: int) -> float:
    """What |t| exceeds in 1 − LEVEL of all draws, by bisection."""
    low, high = 0.0, 16.0
    while _t_within(high, freedom) < LEVEL:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < LEVEL else (low, middle)
    return high


def _t_within(t: float, freedom: int) -> float:
    """P(|T| ≤ t), a finite sum for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for i in range(1 + odd, freedom, 2):
        total += term
        term *= square * i / (i + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
